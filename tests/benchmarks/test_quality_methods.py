"""The benchmarks' methods, on miniatures of the demo's two models, of random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import Model, Prompt
from tiny_diffusers import CAPTION, EMPTY, build, photo, relative

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cheaper_photo
import flow
import flow_file
import layers
import report
import variations
from flow_network import FlowNetwork
from scenes import make_scene

SETTINGS = variations.Settings(steps=10, count=2)
GATES = {False: {}, True: flow.GATES}


def flow_network() -> FlowNetwork:
    """Every weight of it says something."""
    torch.manual_seed(0)
    network = flow_file.fresh(width=128, hidden=64, depth=3).requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return FlowNetwork(network)


both = pytest.mark.parametrize("setup", ["unet", "flow"], indirect=True, scope="module")
flow_alone = pytest.mark.parametrize("setup", ["flow"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def setup(request):
    """(a model, a photo's case, the methods that there are for it)."""
    is_flow = request.param == "flow"
    model, image, prompts = Model(build()), photo(), (CAPTION, EMPTY)
    if is_flow:
        generator = torch.Generator().manual_seed(5)
        model, image = flow_network(), torch.randn(1, 16, 8, 8, generator=generator)
        prompts = [Prompt(torch.randn(1, 77, 768, generator=generator)) for _ in range(2)]
    chain = engine.invert(model, image, prompts[0], SETTINGS.steps, prompts[1])
    case = variations.Case(make_scene(3), image, chain, *prompts)
    return model, case, variations.methods([0.4, 0.8], GATES[is_flow], is_flow)


@pytest.fixture(scope="module")
def model(setup):
    return setup[0]


@pytest.fixture(scope="module")
def case(setup):
    return setup[1]


@pytest.fixture(scope="module")
def made(setup):
    model, case, methods = setup
    return {name: make(model, case, SETTINGS) for name, make in methods.items()}


@both
def test_every_method_makes_as_many_variations_and_no_two_methods_the_same(made, case):
    for name, latents in made.items():
        assert latents.shape == (2, *case.latent.shape[1:]) and torch.isfinite(latents).all()
        assert torch.equal(latents[0], latents[1]) == (name == "RIVAL, no shuffle")
    found = list(made.values())
    assert not any(torch.allclose(a, b) for i, a in enumerate(found) for b in found[:i])


@both
def test_a_method_makes_the_same_again(setup, made):
    model, case, methods = setup
    for name, make in methods.items():
        assert torch.equal(make(model, case, SETTINGS), made[name])


@both
def test_image_to_image_of_little_strength_is_the_image(model, case):
    nearly = variations.image_to_image(1 / SETTINGS.steps)(model, case, SETTINGS)
    assert (nearly - case.latent).abs().mean() < 0.3


@flow_alone
def test_image_to_image_of_a_flow_is_text_to_image_at_full_strength(model, case, made):
    found = variations.image_to_image(1.0)(model, case, SETTINGS)
    assert torch.equal(found, made[report.PLAIN])


@both
def test_every_claim_is_about_a_method_that_is_run(setup):
    assert {*report.ABLATIONS, report.RIVAL, report.PLAIN} <= setup[2].keys()


@both
def test_walking_back_is_sampling_from_the_chains_end_with_nothing_added(model, case):
    expected = engine.sample(model, case.chain, [], case.positive, cfg=1.0, start="inverted")
    assert torch.equal(variations.walk_back(model, case), expected)


# --- benchmarks/layers.py -------------------------------------------------------------------------


@flow_alone
def test_a_photo_is_lent_in_the_blocks_that_a_row_names(model, case, made):
    blocks = len(model.layers)
    rows = layers.rows(model.layers, "beside", flow.GATES)
    groups = {name: make for name, make in rows.items() if name.startswith("block")}
    assert len(groups) == sum(blocks - i for i in range(min(layers.LONGEST, blocks - 1)))
    found = {name: make(model, case, SETTINGS) for name, make in rows.items()}
    assert torch.equal(found[layers.ALL], made["RIVAL"])
    assert torch.equal(found["no block"], made["RIVAL, no attention injection"])
    several = [found[name] for name in (layers.ALL, "no block", *groups)]
    assert not any(torch.equal(a, b) for i, a in enumerate(several) for b in several[:i])


@flow_alone
@pytest.mark.parametrize("cheaper, calls", [(cheaper_photo.in_int8, 5),
                                            (cheaper_photo.at_every_second_step, 3)])
def test_a_cheaper_photo_costs_less_and_changes_little(model, case, made, monkeypatch, cheaper,
                                                       calls):
    """It acts in 5 of 10 steps, and is there in every call of one row."""
    rival = variations.rival(inject_end=0.4)
    plain, seen = rival(model, case, SETTINGS), []
    own, step = model.denoise, engine.Step
    monkeypatch.setattr(model, "denoise", lambda x, *given: seen.append(len(x)) or own(x, *given))
    found = cheaper(rival)(model, case, SETTINGS)
    assert seen.count(1) == calls and engine.Step is step
    assert 0 < relative(found, plain) < relative(made["RIVAL, no attention injection"], plain)
