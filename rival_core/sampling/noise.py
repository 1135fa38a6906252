"""Start latents of the generation chain (RIVAL section 3.1: latent alignment)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from ..chain.chain import Chain
from ..errors import RivalError
from ..steering.exemplar import Exemplar
from ..steering.normalization import statistics
from ..values import choice

Size = tuple[int, ...]  # a latent's grid: height and width, with a time of 1 before them or not


def shuffle(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """The chain's end with its spatial positions permuted, the channel vectors kept whole.

    For another target size the channel vectors are drawn with replacement.
    """
    if size != tuple(end.shape[2:]):
        return resample(end, size, generator)
    index = torch.randperm(math.prod(size), generator=generator)
    return end.flatten(2)[:, :, index].unflatten(2, size)


def resample(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """Channel vectors of the chain's end, drawn with replacement."""
    vectors = end.flatten(2)
    index = torch.randint(vectors.shape[2], [math.prod(size)], generator=generator)
    return vectors[:, :, index].unflatten(2, size)


def gaussian(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """Independent noise with the chain end's per-channel mean and variance."""
    mean, var = statistics(end)
    return mean + var.sqrt() * torch.randn([1, end.shape[1], *size], generator=generator)


def inverted(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """The chain's end itself, for editing. RivalError for another size."""
    if size != tuple(end.shape[2:]):
        raise RivalError(
            f"start 'inverted' needs a latent of the exemplar's size {tuple(end.shape[-2:])}, not "
            f"{size[-2:]}: choose 'shuffle' or 'gaussian', or leave the latent unconnected"
        )
    return end


Draw = Callable[[Tensor, Size, Generator], Tensor]
STARTS: dict[str, Draw] = {
    "shuffle": shuffle,
    "gaussian": gaussian,
    "inverted": inverted,
}


def partial_latents(
    chain: Chain,
    sigma: float,
    draws: Sequence[int],
    seed: int,
    start: str,
    picture: Tensor | None = None,
) -> Tensor:
    """[len(draws), C, H, W] at a sigma of the chain below its top: a start for a part of the way.

    picture: [1 or len(draws), C, H, W], clean, in the model's latent space; None is the photo. It
    stays where it is, under the photo's noise, shuffled, or drawn with its statistics.
    """
    picture = chain.clean.cpu() if picture is None else picture
    size = tuple(picture.shape[2:])
    drawn = start_latents(noise_of(chain, sigma), size, draws, seed, start)
    return chain.scaling.clean_share(sigma) * picture + sigma * drawn


def noise_of(chain: Chain, sigma: float) -> Tensor:
    """[1, C, H, W]: the noise that the chain's latent at a sigma holds, of about unit variance."""
    kept = chain.scaling.clean_share(sigma) * chain.clean.cpu()
    return (chain.at(sigma).cpu() - kept) / sigma


def start_latents(end: Tensor, size: Size, draws: Sequence[int], seed: int, start: str) -> Tensor:
    """[len(draws), C, *size]: item i is draw draws[i] of the seed, from one of STARTS."""
    return draw_latents(end, size, draws, seed, STARTS[choice("start", start, STARTS)])


def draw_latents(end: Tensor, size: Size, draws: Sequence[int], seed: int, draw: Draw) -> Tensor:
    """[len(draws), C, *size]: item i is draw draws[i] of the seed.

    end: [1, C, H, W] on the CPU. One CPU generator a seed, draw j its j-th use, so that an item
    is the same whatever the batch it comes in.
    """
    generator = Generator().manual_seed(seed)
    wanted = set(draws)
    drawn = {}
    for j in range(max(draws) + 1):
        latent = draw(end, size, generator)
        if j in wanted:
            drawn[j] = latent
    return torch.cat([drawn[j] for j in draws])


def regional_start(
    chain: Chain,
    exemplars: Sequence[Exemplar],
    size: Size,
    draws: Sequence[int],
    seed: int,
    start: str,
) -> Tensor:
    """[len(draws), C, *size] at the chain's top: each place starts as the photo that acts there.

    Where another photo with a mask acts more than this chain's own, its noise is drawn instead, as
    `start` says. Elsewhere, without masks, and with `inverted`, whose layout is one photo's, it is
    start_latents of the chain.
    """
    latents = start_latents(chain.end.cpu(), size, draws, seed, start)
    if start == "inverted":
        return latents
    strongest = latents.new_zeros(1, 1, *size)
    for exemplar in (e for e in exemplars if e.chain is chain):
        strongest = torch.maximum(strongest, exemplar.weights(latents))
    for exemplar in (e for e in exemplars if e.chain is not chain and e.mask is not None):
        weights = exemplar.weights(latents)
        if (weights > strongest).any():
            there = start_latents(exemplar.chain.at(chain.top).cpu(), size, draws, seed, start)
            latents = torch.where(weights > strongest, there, latents)
            strongest = torch.maximum(strongest, weights)
    return latents
