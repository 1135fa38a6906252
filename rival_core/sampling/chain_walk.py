"""Sampling as a chain's scheme walks down: a sampler, as k-diffusion's functions are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..chain.chain import Chain
from ..inversion.scheme import Start
from ..inversion.walks import walk_down


def sample_chain(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    chain: Chain,
    is_own: bool,
    callback: Callable[[dict], None] | None = None,
    **extra_args,
) -> Tensor:
    """The walk down that belongs to the chain's solver, which has a scheme.

    x: [B, C, H, W] at sigmas[0], one of the chain's, whose further ones follow. is_own: whether it
    is the chain's latent there; what the way up left beside that is used only then. Cost: as the
    way up's, or a call less.
    """
    walk = chain.solver.walk(chain.sigmas.tolist(), chain.scaling)
    place = chain.place(float(sigmas[0]))
    start = start_of(chain, x, place) if is_own else Start(x, place)

    def asked(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma, **extra_args)

    return walk_down(chain.solver.scheme, asked, start, walk, callback)


def start_of(chain: Chain, x: Tensor, place: int) -> Start:
    """x, the chain's latent at a place for each image, and what there is beside it."""
    below, partner = chain.latents[place - 1], chain.partner
    return Start(
        x,
        place,
        below.to(x).expand_as(x),
        None if partner is None else partner[place].to(x).expand_as(x),
        None if chain.noise is None else chain.noise.to(x),
    )
