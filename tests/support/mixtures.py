"""Data whose exact denoiser is known, a mixture of five narrow Gaussians, and walks along it."""

from __future__ import annotations

import math

import torch
from comfyui_rival.rival_core.inversion.fixed_point import Solver, invert, to_d
from comfyui_rival.rival_core.inversion.scaling import FlowScaling, Scaling
from comfyui_rival.rival_core.inversion.schedule import rival_timesteps
from comfyui_rival.rival_core.inversion.scheme import Inversion, Start
from comfyui_rival.rival_core.inversion.walks import walk_down

SD = Scaling(14.6146)


class Mixture:
    """The denoiser, in sigma or in a flow's time, and `data`: samples of every Gaussian."""

    def __init__(self, flow: bool = False, deviation: float = 0.3, shape=(4, 2, 2)):
        generator = torch.Generator().manual_seed(0)
        size = math.prod(shape)
        self.flow, self.var, self.shape = flow, deviation**2, shape
        self.means = torch.randn(5, size, generator=generator, dtype=torch.float64)
        noise = torch.randn(60, size, generator=generator, dtype=torch.float64)
        self.data = (self.means.repeat(12, 1) + deviation * noise).view(60, *shape)
        self.rows: list[int] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        noise, scale = float(sigma[0]), 1 - float(sigma[0]) if self.flow else 1.0
        x = x.flatten(1)
        var = scale**2 * self.var + noise**2
        away = x[:, None] - scale * self.means
        weights = (-away.square().sum(2) / (2 * var)).softmax(1)
        means = self.means + scale * self.var / var * away
        return (weights[..., None] * means).sum(1).view(-1, *self.shape)


def sd_sigmas(steps: int) -> torch.Tensor:
    """Rising, from SD's terminal sigma, along the paper's timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    return ((1 - kept) / kept).sqrt()[[0, *rival_timesteps(steps)]]


def euler(model, x, falling):
    for sigma, target in zip(falling, falling[1:]):
        x = x + (target - sigma) * to_d(x, sigma, model(x, x.new_full([len(x)], sigma)))
    return x


def round_trip(solver: Solver, sigmas: torch.Tensor, flow: bool = False) -> float:
    """RMSE of what Euler brings back."""
    model = Mixture(flow)
    inverted = invert(model, model.data, sigmas, FlowScaling() if flow else SD, solver)
    back = euler(model, inverted.latents[-1], sigmas.flip(0).tolist())
    return float((back - inverted.latents[0]).square().mean().sqrt())


def there_and_back(solver: Solver, sigmas: torch.Tensor, flow: bool = False, place=None):
    """(what a scheme's walk up leaves, what its walk down makes of it, from a place or the top)"""
    model, scaling = Mixture(flow), FlowScaling() if flow else SD
    found = invert(model, model.data, sigmas, scaling, solver)
    place = len(sigmas) - 1 if place is None else place
    walk = solver.walk(sigmas.tolist(), scaling)
    return found, walk_down(solver.scheme, model, start_at(found, place), walk)


def start_at(found: Inversion, place: int) -> Start:
    partner = None if found.partner is None else found.partner[place]
    noise = None if found.noise is None else torch.stack(found.noise)
    return Start(found.latents[place], place, found.latents[place - 1], partner, noise)


def flow_sigmas(steps: int, shift: float = 1.0) -> torch.Tensor:
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return shift * times / (1 + (shift - 1) * times)


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


def slope(model, x, sigma: float):
    """In float64, also at a flow's time 0."""
    sigma = max(sigma, 1e-8)
    return to_d(x, sigma, model(x, x.new_full([len(x)], sigma)))
