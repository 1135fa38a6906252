"""The quality benchmark's methods, on a miniature UNet of random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import Model
from tiny_diffusers import CAPTION, EMPTY, build, photo

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import report
import variations
from scenes import make_scene

SETTINGS = variations.Settings(steps=10, count=2)
METHODS = variations.methods([0.4, 1.0])


@pytest.fixture(scope="module")
def model():
    return Model(build())


@pytest.fixture(scope="module")
def case(model):
    chain = engine.invert(model, photo(), CAPTION, SETTINGS.steps, EMPTY)
    return variations.Case(make_scene(3), photo(), chain, CAPTION, EMPTY)


@pytest.fixture(scope="module")
def made(model, case):
    return {name: make(model, case, SETTINGS) for name, make in METHODS.items()}


def test_every_method_makes_as_many_variations_and_no_two_methods_the_same(made):
    for name, latents in made.items():
        assert latents.shape == (2, 4, 8, 8) and torch.isfinite(latents).all()
        assert torch.equal(latents[0], latents[1]) == (name == "RIVAL, no shuffle")
    found = list(made.values())
    assert not any(torch.allclose(a, b) for i, a in enumerate(found) for b in found[:i])


def test_a_method_makes_the_same_again(model, case, made):
    for name, make in METHODS.items():
        assert torch.equal(make(model, case, SETTINGS), made[name])


def test_image_to_image_of_little_strength_is_the_image(model, case):
    nearly = variations.image_to_image(1 / SETTINGS.steps)(model, case, SETTINGS)
    assert (nearly - case.latent).abs().mean() < 0.3


def test_every_claim_is_about_a_method_that_is_run():
    assert {*report.ABLATIONS, "RIVAL", "text-to-image, same caption"} <= METHODS.keys()


def test_walking_back_is_sampling_from_the_chains_end_with_nothing_added(model, case):
    expected = engine.sample(model, case.chain, [], CAPTION, cfg=1.0, start="inverted")
    assert torch.equal(variations.walk_back(model, case), expected)
