"""Samplers of the pack's own, as k-diffusion's functions are: any host can run them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RivalError
from ..inversion.fixed_point import to_d
from ..inversion.scaling import FlowScaling, Scaling


def ancestral_step(
    sigma: float, target: float, eta: float, scaling: Scaling | None = None
) -> tuple[float, float, float]:
    """(the level a step goes down to, how much of the latent is kept there, the fresh noise's
    deviation): kept * x + deviation * noise is at the target.

    DDIM's eta: 0 draws no noise, 1 is ancestral (DDPM) sampling. scaling: of the latents; a flow's
    takes the same step where its latents are an eps model's, x / (1 - sigma) at the level
    sigma / (1 - sigma), which is endless at sigma 1.
    """
    if isinstance(scaling, FlowScaling):
        return flow_step(sigma, target, eta)
    up = min(target, eta * math.sqrt(target**2 * (sigma**2 - target**2) / sigma**2))
    return math.sqrt(target**2 - up**2), 1.0, up


def flow_step(sigma: float, target: float, eta: float) -> tuple[float, float, float]:
    """ancestral_step of a flow, for 0 <= target < sigma <= 1."""
    level = target / (1 - target)
    share = min(1.0, level * (1 - sigma) / sigma)  # of the level that the step comes from
    up = min(level, eta * level * math.sqrt(1 - share**2))
    down = math.sqrt(level**2 - up**2)
    down = down / (1 + down)
    return down, (1 - target) / (1 - down), (1 - target) * up


def sample_euler_partial(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    noise_at: Callable[[int], Tensor],
    stochastic: Callable[[float], bool],
    eta: float,
    callback: Callable[[dict], None] | None = None,
    scaling: Scaling | None = None,
    **extra_args,
) -> Tensor:
    """Euler (DDIM) with fresh noise, eta's share of it, at a part of the schedule only (AIDI).

    x: [B, C, H, W] at sigmas[0]; sigmas: [S + 1], falling. noise_at(i): unit noise like x for
    step i. stochastic(sigma): whether the step from there draws noise. scaling: of the latents, if
    they are a flow's. Cost: S model calls.
    """
    levels = sigmas.tolist()
    for i, (sigma, target) in enumerate(zip(levels, levels[1:])):
        denoised = model(x, x.new_full([len(x)], sigma), **extra_args)
        if callback is not None:
            state = {"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised}
            callback(state)
        share = eta if stochastic(sigma) else 0.0
        down, kept, up = ancestral_step(sigma, target, share, scaling)
        x = x + (down - sigma) * to_d(x, sigma, denoised)
        if up > 0:
            x = kept * x + up * noise_at(i).to(x)
    return x


class DrawnNoise:
    """The fresh noise of each draw of a seed: an item's is the same whatever its batch."""

    def __init__(self, seed: int, draws: list[int], shape: tuple[int, ...]):
        # A stream of its own for every draw, apart from the one that the start is drawn from.
        self.generators = [
            torch.Generator().manual_seed((seed * 1_000_003 + 7919 * (draw + 1)) % 2**63)
            for draw in draws
        ]
        self.shape = shape

    def __call__(self, step: int) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])


def check_eta(eta: float, eta_start: float, eta_end: float) -> None:
    """RivalError for a window of the schedule in which eta never acts."""
    if eta > 0 and eta_start >= eta_end:
        raise RivalError(f"eta acts from {eta_start} to {eta_end}: set eta_end above eta_start")
