"""How a step that draws fresh noise splits into a step down and that noise."""

from __future__ import annotations

import math

from .scaling import FlowScaling, Scaling


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
