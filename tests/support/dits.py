"""Miniature DiTs beside photos: what the tests of test_dit_* share. Models are never changed."""

from __future__ import annotations

import graph
import pytest
import tiny_dits
import torch
from composing import guider_of, predict, remembered
from torch import Tensor

FEW = ("flux", "lumina", "qwen", "sd3", "wan")  # one for each way to attend
SIGMA = 0.7
REPLACE, CONCAT = {"replace_end": 1.0}, {"replace_end": 0.0}
MODES = {"replace": REPLACE, "concat": CONCAT}


def name_of(family: str) -> str:
    """Z-Image where the host has it, else Lumina2."""
    if family == "lumina":
        return "zimage" if "zimage" in tiny_dits.available() else "lumina2"
    if family not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {family}")
    return family


@remembered
def model_of(family: str):
    return tiny_dits.build(name_of(family))


def prompt(family: str, seed: int, tokens: int = 24) -> list:
    return tiny_dits.conditioning(model_of(family), seed, tokens)


def noise(family: str, seed: int = 7, batch: int = 1, size=(8, 8)) -> Tensor:
    """What the network could see at SIGMA."""
    return tiny_dits.noise(model_of(family), seed, batch, size)


def photo(family: str, x: Tensor, positive, negative=None, sigma: float = SIGMA):
    """A chain whose latent at sigma is x; it was never inverted."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.chain import Chain

    model = model_of(family)
    return Chain(torch.tensor([0.0, sigma]), torch.cat([x, x]), host.scaling_of(model),
                 host.model_card(model), positive, negative)  # fmt: skip


@remembered
def chain_of(family: str, seed: int = 0, size=(8, 8), negative: bool = False, steps: int = 4,
             solver: str = "ddim"):
    """A photo's chain, as RIVAL Invert makes it."""
    other = {"negative": prompt(family, 2)} if negative else {}
    latent = tiny_dits.latent(model_of(family), 100 + seed, size=size)
    return graph.invert(model_of(family), latent, prompt(family, 1), steps=steps,
                        schedule="simple", solver=solver, **other)[0]


def patched(family_or_model, *patches):
    """Through RIVAL Patch Model for each (chain, settings); without normalisation by default."""
    model = family_or_model
    model = model_of(model) if isinstance(model, str) else model
    for chain, settings in patches:
        model = graph.patch(model, chain, **{"normalize_end": 0.0, **settings})
    return model


def velocity(model, x: Tensor, positive, negative=None, cfg: float = 1.0, sigma=SIGMA) -> Tensor:
    """The guided prediction of a MODEL at a noise level, in a run of the host's."""
    return (x - predict(guider_of(model, positive, negative, cfg), x, sigma)) / sigma


def sample(family: str, chain, *settings, model=None, cfg: float = 3.0, **inputs) -> Tensor:
    """RIVAL KSampler along a chain, beside photos if there are settings for them."""
    model = patched(model or family, *((chain, one) for one in settings))
    return graph.rival_sample(model, chain, prompt(family, 3), prompt(family, 4), cfg=cfg,
                              **inputs)


def half(side: str = "left", value: float = 1.0) -> Tensor:
    """A MASK of one half."""
    mask = torch.zeros(1, 64, 64)
    mask[..., slice(0, 32) if side == "left" else slice(32, 64)] = value
    return mask
