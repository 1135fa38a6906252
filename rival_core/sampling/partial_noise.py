"""Samplers of the pack's own, as k-diffusion's functions are: any host can run them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RivalError
from ..inversion.ancestral import ancestral_step
from ..inversion.fixed_point import to_d
from ..inversion.scaling import Scaling


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
