"""A chain's mean and deviation per level and channel, on chains whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.chain.statistics import (
    assumed,
    chance,
    gap_lines,
    measured,
    moments_table,
)
from comfyui_rival.rival_core.inversion.scaling import FlowScaling, Scaling

SCALINGS = {"eps": Scaling(14.6), "edm": Scaling(80.0, 0.5), "flow": FlowScaling()}
SIGMAS = {"eps": (0.03, 0.3, 2.0, 14.6), "edm": (0.0, 0.4, 80.0), "flow": (0.0, 0.25, 0.8, 1.0)}
each_kind = pytest.mark.parametrize("kind", SCALINGS)


def orthonormal(pixels: int, seed: int = 0) -> torch.Tensor:
    """[8, pixels]: rows of mean 0 and std 1, uncorrelated, exactly."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(9, pixels, generator=generator, dtype=torch.float64)
    rows[0] = 1.0
    return torch.linalg.qr(rows.T)[0].T[1:] * math.sqrt(pixels)


def make_chain(kind: str, noise_std: float = 1.0, noise_mean: float = 0.0) -> Chain:
    """Four channels of an image, with noise of that mean and deviation added up to each level."""
    scaling, rows = SCALINGS[kind], orthonormal(6 * 10).view(8, 6, 10)
    mean, std = image_moments()
    image = rows[:4] * std[:, None, None] + mean[:, None, None]
    noise = rows[4:] * noise_std + noise_mean
    latents = [scaling.clean_share(s) * image + s * noise for s in SIGMAS[kind]]
    if SIGMAS[kind][0] > 0:  # the image counts as a latent of its own level
        latents[0] = image * scaling.level(SIGMAS[kind][0])
    sigmas = torch.tensor(SIGMAS[kind])
    card = ModelCard("SD15", "SD15", ())
    return Chain(sigmas, torch.stack(latents).float(), scaling, card, positive=[])


def image_moments() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([0.3, -0.2, 0.0, 1.0]).double(), torch.tensor([0.5, 0.8, 1.0, 1.6]).double()


def expected(kind: str, sigma: float, noise_std=1.0, noise_mean=0.0):
    """Mean and std of each channel at sigma, by hand."""
    mean, std = image_moments()
    if kind == "flow":
        image, unit = 1 - sigma, 1.0
    else:
        image, unit = 1.0, math.hypot({"eps": 1.0, "edm": 0.5}[kind], sigma)
    deviation = ((image * std) ** 2 + (sigma * noise_std) ** 2).sqrt()
    return (image * mean + sigma * noise_mean) / unit, deviation / unit


@each_kind
def test_a_noised_image_has_no_gap(kind):
    chain = make_chain(kind)
    own, plain = measured(chain), assumed(chain)
    assert own.mean.shape == own.std.shape == plain.mean.shape == (chain.steps + 1, 4)
    for i, sigma in enumerate(SIGMAS[kind][1:], 1):
        mean, std = expected(kind, sigma)
        for found in (own, plain):
            assert torch.allclose(found.mean[i].double(), mean, atol=1e-5)
            assert torch.allclose(found.std[i].double(), std, rtol=1e-5)


@each_kind
def test_at_the_top_plain_sampling_is_the_unit_gaussian(kind):
    plain = assumed(make_chain(kind))
    assert torch.allclose(plain.std[-1], torch.ones(4), atol=0.005)
    assert torch.allclose(plain.mean[-1], torch.zeros(4), atol=0.08)


@each_kind
def test_other_noise_shows_as_itself(kind):
    chain = make_chain(kind, noise_std=0.8, noise_mean=0.1)
    mean, std = expected(kind, SIGMAS[kind][-1], 0.8, 0.1)
    own = measured(chain)
    assert torch.allclose(own.mean[-1].double(), mean, atol=1e-5)
    assert torch.allclose(own.std[-1].double(), std, rtol=1e-5)
    assert (assumed(chain).std[-1] - own.std[-1] > 0.15).all()


def test_chance_is_two_standard_errors():
    chain = make_chain("eps")
    draws = torch.randn(20000, 60, generator=torch.Generator().manual_seed(1))
    of_mean, of_std = chance(chain)
    assert of_mean == pytest.approx(2 * float(draws.mean(1).std()), rel=0.03)
    assert of_std == pytest.approx(2 * float(draws.std(1).std()), rel=0.03)


@each_kind
def test_the_table_holds_every_level(kind):
    chain = make_chain(kind)
    own, (head, *rows) = measured(chain), moments_table(chain).splitlines()
    assert head.split() == ["level", "sigma", *(f"{m}[{c}]" for m in ("mean", "std")
                                               for c in range(4))]
    for i, row in enumerate(rows):
        level, sigma, *values = map(float, row.split())
        assert level == i and sigma == pytest.approx(float(chain.sigmas[i]), rel=1e-3)
        found = [*own.mean[i].tolist(), *own.std[i].tolist()]
        assert values == pytest.approx(found, abs=6e-4)
    assert len(rows) == chain.steps + 1


def test_the_top_in_words():
    first, *channels = gap_lines(make_chain("flow", 0.8, 0.1))
    assert "sigma 1)" in first and "±0.258" in first and "±0.183" in first
    assert len(channels) == 4
    assert channels[2].strip().startswith("channel 2: mean +0.100, std 0.800; the image with")
    assert channels[2].endswith("0.000, 1.000")
