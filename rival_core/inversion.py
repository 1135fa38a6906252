"""From an image to its chain."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .scaling import Scaling


def to_d(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """The derivative dx/dsigma, which for eps- and v-models is the predicted noise."""
    return (x - denoised) / sigma


def invert_ddim(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    scaling: Scaling,
    callback: Callable[[dict], None] | None = None,
) -> list[Tensor]:
    """DDIM inversion with the target-timestep pairing (RIVAL section 3.1; official code).

    The noise that carries a latent from sigma to the next is predicted from that latent
    relabelled as one at the next sigma. Order 1, not exact.

    model:  (x [B, C, H, W], sigma [B]) -> denoised [B, C, H, W].
    x:      [B, C, H, W], a clean latent: it enters as one noised to sigmas[0].
    sigmas: [S + 1], rising.
    Returns the S + 1 latents, in the order of the sigmas. Cost: S model calls.
    """
    levels = sigmas.tolist()
    x = scaling.rescale(x, 0.0, levels[0])
    latents = [x]
    for i, (sigma, target) in enumerate(zip(levels, levels[1:])):
        x_hat = scaling.rescale(x, sigma, target)
        denoised = model(x_hat, x.new_full([len(x)], target))
        x = x + (target - sigma) * to_d(x_hat, target, denoised)
        latents.append(x)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": target, "sigma_hat": target, "denoised": denoised})
    return latents
