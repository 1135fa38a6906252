"""Chains by the inversion schemes on a miniature UNet, and the way back along them."""

from __future__ import annotations

import graph
import tiny
from composing import remembered

STEPS = 6


@remembered
def model(family: str = "sd15"):
    return tiny.calm(tiny.build(family, levels=1))


@remembered
def flow():
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model(), 3.0)[0]


def prompt(seed: int) -> list:
    return tiny.conditioning(model(), seed)


PHOTO = tiny.latent(2, size=8)


def invert(solver: str, of=None, **inputs):
    """A chain guided by 3, and the way back misses nothing all the same."""
    widgets = {"steps": STEPS, "solver": solver, "cfg": 3.0, "negative": prompt(7)}
    return graph.invert(of or model(), PHOTO, prompt(1), **{**widgets, **inputs})[0]


@remembered
def chain_by(solver: str):
    return invert(solver)


def reconstruct(of, chain):
    from comfyui_rival.nodes import RivalReconstruct

    return RivalReconstruct.execute(of, chain)


def sample(chain, of=None, negative=None, **inputs):
    """By the sampler chain, as the photo was inverted."""
    widgets = {"sampler_name": "chain", "start": "inverted", "cfg": 3.0, **inputs}
    return graph.rival_sample(of or model(), chain, prompt(1), negative or prompt(7), **widgets)


def missed(samples) -> float:
    return graph.relative(samples, PHOTO["samples"].expand_as(samples))
