"""Schemes at work on a model: each call checked, told and counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RivalError
from .scheme import Inversion, Scheme, Start, Walk
from .slopes import Call, Slopes


def walk_up(
    scheme: Scheme,
    model: Callable[..., Tensor],
    x: Tensor,
    walk: Walk,
    callback: Callable[[dict], None] | None = None,
    solved: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Inversion:
    """A scheme's inversion of x [B, C, H, W] at the walk's lowest level.

    callback: told of every call. solved: told of each call at a latent of the walk, (its place
    from 1; residuals [B] of 0; the slope there). RivalError as soon as anything is not finite.
    Cost: scheme.rows.of(S) model calls.
    """
    steps, places = len(walk.levels) - 1, {s: i for i, s in enumerate(walk.levels)}

    def told(call: Call) -> None:
        check_finite(call.slope, call.step, steps, call.iteration)
        if callback is not None:
            callback({**as_state(call), "iteration": call.iteration})
        place = places.get(call.sigma)
        if solved is not None and scheme.sees and place:
            solved(place, torch.zeros(len(x)), call.slope)

    found = scheme.up(slopes(scheme, model, walk, told), x, walk)
    for i, latent in enumerate(found.latents[1:]):
        check_finite(latent, i, steps)
    calls = torch.tensor(scheme.rows.of(steps))[:, None].expand(-1, len(x))
    return found._replace(evaluations=calls)


def walk_down(
    scheme: Scheme,
    model: Callable[..., Tensor],
    start: Start,
    walk: Walk,
    callback: Callable[[dict], None] | None = None,
) -> Tensor:
    """[B, C, H, W] at the walk's lowest level. Cost: as the way up's, or a call less."""

    def told(call: Call) -> None:
        if callback is not None:
            callback(as_state(call))

    return scheme.down(slopes(scheme, model, walk, told), start, walk)


def slopes(scheme: Scheme, model: Callable[..., Tensor], walk: Walk, told: Callable) -> Slopes:
    above = next(sigma for sigma in walk.levels if sigma > 0)
    return Slopes(model, walk.scaling, above, scheme.rows, told)


def as_state(call: Call) -> dict:
    """A call as samplers tell their callbacks of it."""
    levels = {"sigma": call.sigma, "sigma_hat": call.sigma}
    return {"x": call.x, "i": call.step, "denoised": call.denoised, **levels}


def check_finite(x: Tensor, step: int, steps: int, iteration: int = 0) -> None:
    if not torch.isfinite(x).all():
        raise RivalError(
            f"the inversion ran into NaN or infinity at step {step + 1} of {steps}, iteration "
            f"{iteration + 1}: run the model in float32 (--force-fp32), set cfg to 1, or use "
            "another schedule or solver"
        )


def drawn(seed: int, like: Tensor) -> Callable[[], Tensor]:
    """Draws unit noise like a latent, on the CPU: a seed's is the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator).to(like)
