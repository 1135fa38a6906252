"""Start latents of the generation chain (RIVAL section 3.1: latent alignment)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from .chain import Chain
from .errors import RivalError
from .normalization import statistics

Size = tuple[int, int]


def shuffle(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """The chain's end with its spatial positions permuted, the channel vectors kept whole.

    For another target size the channel vectors are drawn with replacement.
    """
    vectors = end.flatten(2)
    count = size[0] * size[1]
    if size == tuple(end.shape[2:]):
        index = torch.randperm(count, generator=generator)
    else:
        index = torch.randint(vectors.shape[2], [count], generator=generator)
    return vectors[:, :, index].unflatten(2, size)


def gaussian(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """Independent noise with the chain end's per-channel mean and variance."""
    mean, var = statistics(end)
    return mean + var.sqrt() * torch.randn([1, end.shape[1], *size], generator=generator)


def inverted(end: Tensor, size: Size, generator: Generator) -> Tensor:
    """The chain's end itself, for editing. RivalError for another size."""
    if size != tuple(end.shape[2:]):
        raise RivalError(
            f"start 'inverted' needs a latent of the exemplar's size {tuple(end.shape[2:])}, not "
            f"{size}: choose 'shuffle' or 'gaussian', or leave the latent unconnected"
        )
    return end


STARTS: dict[str, Callable[[Tensor, Size, Generator], Tensor]] = {
    "shuffle": shuffle,
    "gaussian": gaussian,
    "inverted": inverted,
}


def partial_latents(
    chain: Chain, sigma: float, draws: Sequence[int], seed: int, start: str
) -> Tensor:
    """[len(draws), C, H, W] at a sigma of the chain below its top: a start for a part of the way.

    The photo stays where it is and only its noise is shuffled, or drawn with its statistics.
    """
    x, kept = chain.at(sigma).cpu(), chain.scaling.clean_share(sigma) * chain.clean.cpu()
    noise = (x - kept) / sigma
    drawn = start_latents(noise, tuple(x.shape[2:]), draws, seed, start)
    return kept + sigma * drawn


def start_latents(end: Tensor, size: Size, draws: Sequence[int], seed: int, start: str) -> Tensor:
    """[len(draws), C, *size]: item i is draw draws[i] of the seed.

    end: [1, C, H, W] on the CPU. One CPU generator a seed, draw j its j-th use, so that an item
    is the same whatever the batch it comes in.
    """
    generator = Generator().manual_seed(seed)
    wanted = set(draws)
    drawn = {}
    for j in range(max(draws) + 1):
        latent = STARTS[start](end, size, generator)
        if j in wanted:
            drawn[j] = latent
    return torch.cat([drawn[j] for j in draws])
