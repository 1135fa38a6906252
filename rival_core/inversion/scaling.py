"""How clean latents and noise levels scale into each other, for one checkpoint's sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """The scales of an eps-, v- or EDM-parameterised model in sigma coordinates.

    A latent at sigma has variance sigma_data**2 + sigma**2; every rescale below keeps its
    variance-preserving value z = x * sigma_data / sqrt(sigma_data**2 + sigma**2) fixed.
    """

    sigma_max: float
    sigma_data: float = 1.0

    def level(self, sigma: float) -> float:
        """x / z at sigma: sqrt(1 + (sigma / sigma_data)**2)."""
        return math.sqrt(1.0 + (sigma / self.sigma_data) ** 2)

    def clean_share(self, sigma: float) -> float:
        """How much of the clean latent is in one at sigma: x = share * clean + sigma * noise."""
        return 1.0

    def rescale(self, x: Tensor, sigma: float, target: float) -> Tensor:
        """The latent x at `sigma`, relabelled as one at `target` (same z)."""
        return x * (self.level(target) / self.level(sigma))

    def lowest(self, x: Tensor, target: float) -> tuple[Tensor, float]:
        """What a model is shown, and at which sigma, for the slope of x at sigma 0.

        target: the next level, at which x is shown: a model knows no noise free of noise
        (as in O-BELM's official code).
        """
        return self.rescale(x, 0.0, target), target

    def end_scale(self, sigma: float) -> float:
        """What a walk's end at sigma, as the host gives it back, is divided by to be clean."""
        return self.level(sigma)

    def noise_scale(self, sigma: float) -> float:
        """What the host multiplies unit noise by, on an empty latent, to start at sigma.

        At the top of the model's range that is sqrt(1 + sigma**2), below it sigma.
        """
        at_top = sigma > self.sigma_max or math.isclose(sigma, self.sigma_max, rel_tol=1e-5)
        return math.sqrt(1.0 + sigma**2) if at_top else sigma


@dataclass(frozen=True)
class FlowScaling(Scaling):
    """A flow model's: x = (1 - sigma) clean + sigma noise, and sigma is the time.

    A latent is taken for one at another sigma as it is, which is the solvers' first iterate
    (AIDI: f(y) = x_s + (t - s) v(y, t), from y = x_s). A clean latent has sigma 0.
    """

    sigma_max: float = 1.0

    def level(self, sigma: float) -> float:
        return 1.0

    def clean_share(self, sigma: float) -> float:
        return 1.0 - sigma

    def lowest(self, x: Tensor, target: float) -> tuple[Tensor, float]:
        """A velocity is known at time 0, too: at one so near that rounding costs no more."""
        return x, math.sqrt(torch.finfo(x.dtype).eps)

    def end_scale(self, sigma: float) -> float:
        return 1.0 / (1.0 - sigma)  # the host's own last division, which a chain never undoes

    def noise_scale(self, sigma: float) -> float:
        return sigma
