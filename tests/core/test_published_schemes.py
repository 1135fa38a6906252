"""The inversion schemes' steps as they were published, written anew.

In variance-preserving values: z = sqrt(kept) x0 + sqrt(1 - kept) noise.
"""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.inversion.fixed_point import Solver, invert
from mixtures import SD, Mixture, relative, sd_sigmas, slope

STEPS = 10
LEVELS = sd_sigmas(STEPS)
KEPT = (1 / (1 + LEVELS**2)).tolist()


def eps(z: torch.Tensor, place: int) -> torch.Tensor:
    return slope(Mixture(), z / math.sqrt(KEPT[place]), float(LEVELS[place]))


def ddim(z: torch.Tensor, noise: torch.Tensor, place: int, target: int) -> torch.Tensor:
    """Between levels in either direction, with a noise predicted anywhere."""
    a, b = KEPT[place], KEPT[target]
    return math.sqrt(b / a) * (z - math.sqrt(1 - a) * noise) + math.sqrt(1 - b) * noise


def published_obelm():
    z = [Mixture().data]
    z.append(ddim(z[0], eps(z[0], 0), 0, 1))
    scale, sigma = [math.sqrt(a) for a in KEPT], LEVELS.tolist()
    for i in range(1, STEPS):
        done, ahead = sigma[i] - sigma[i - 1], sigma[i + 1] - sigma[i]
        z.append(scale[i + 1] / scale[i - 1] * ahead**2 / done**2 * z[i - 1]
                 + scale[i + 1] / scale[i] * (done**2 - ahead**2) / done**2 * z[i]
                 + scale[i + 1] * (done + ahead) * ahead / done * eps(z[i], i))
    return z


def published_bdia(gamma: float):
    z = [Mixture().data]
    z.append(ddim(z[0], eps(z[0], 0), 0, 1))
    for i in range(1, STEPS):
        noise = eps(z[i], i)
        miss = z[i - 1] - ddim(z[i], noise, i, i - 1)
        z.append(miss / gamma + ddim(z[i], noise, i, i + 1))
    return z


def published_edict(p: float):
    """Read from the top down, as the method is told: x first at the first step, then y."""
    x = y = Mixture().data
    both = [(x, y)]
    for place in range(1, STEPS + 1):
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        if (STEPS - place) % 2 == 0:
            y = ddim(y, eps(x, place), place - 1, place)
            x = ddim(x, eps(y, place), place - 1, place)
        else:
            x = ddim(x, eps(y, place), place - 1, place)
            y = ddim(y, eps(x, place), place - 1, place)
        both.append((x, y))
    return both


def invert_by(solver: Solver):
    return invert(Mixture(), Mixture().data, LEVELS, SD, solver)


def test_obelm_as_published():
    found = invert_by(Solver("obelm"))
    for x, z, kept in zip(found.latents, published_obelm(), KEPT):
        assert relative(x * math.sqrt(kept), z) < 1e-12


@pytest.mark.parametrize("coupling", [0.0, 0.96])
def test_bdia_as_published(coupling):
    found = invert_by(Solver("bdia", coupling=coupling))
    wanted = published_bdia((coupling or 1.0) ** (50 / STEPS))
    for x, z, kept in zip(found.latents, wanted, KEPT):
        assert relative(x * math.sqrt(kept), z) < 1e-12


def test_edict_as_published():
    found = invert_by(Solver("edict"))
    wanted = published_edict(0.93 ** (50 / STEPS))
    for x, y, z, kept in zip(found.latents, found.partner, wanted, KEPT):
        assert relative(x * math.sqrt(kept), z[0]) < 1e-12
        assert relative(y * math.sqrt(kept), z[1]) < 1e-12
    assert relative(found.latents[-1], found.partner[-1]) > 1e-3, "they are one latent"


def test_edit_friendly_as_published():
    """DDPM's posterior: z' = sqrt(b) x0 + sqrt(1 - b - v) eps + sqrt(v) map, at eta 1."""
    found = invert_by(Solver("edit_friendly", seed=3))
    z = [x * math.sqrt(kept) for x, kept in zip(found.latents, KEPT)]
    for place in range(1, STEPS + 1):
        a, b = KEPT[place], KEPT[place - 1]
        noise, variance = eps(z[place], place), (1 - b) / (1 - a) * (1 - a / b)
        clean = (z[place] - math.sqrt(1 - a) * noise) / math.sqrt(a)
        mean = math.sqrt(b) * clean + math.sqrt(1 - b - variance) * noise
        assert relative((z[place - 1] - mean) / math.sqrt(variance), found.noise[place - 1]) < 1e-10
