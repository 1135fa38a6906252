"""Filling a hole along a photo's chain (RIVAL section 4: example-based inpainting)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..chain.chain import Chain
from .noise import draw_latents, noise_of, resample, start_latents

# Two latents of one picture differ by less than this share: VAE Encode (for Inpainting) greys the
# hole, which is felt around it. Two pictures differ by about 1.
SAME_IMAGE = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class Inpainting:
    """An image with a hole, to be filled along a photo's chain. Immutable.

    image: [B, C, H, W], clean, in the model's latent space: what is known outside the hole.
    mask:  [B, 1, H, W] within 0 and 1, 1 in the hole.
    noise: [B, C, H, W], unit noise for the known part of another image than the photo.
    """

    chain: Chain
    image: Tensor
    mask: Tensor
    noise: Tensor

    @cached_property
    def is_photo(self) -> bool:
        """Whether the image is the chain's own photo, as far as it is known."""
        if self.image.shape[1:] != self.chain.latents.shape[1:]:
            return False
        known, photo = 1 - self.mask, self.chain.clean.to(self.image)
        return bool(((self.image - photo) * known).norm() <= SAME_IMAGE * (photo * known).norm())

    def known(self, sigma: float) -> Tensor:
        """[B, C, H, W]: the image at a sigma, on the chain if it is the photo.

        Where it differs a little from the photo it carries the chain's noise all the same.
        """
        share = self.chain.scaling.clean_share(sigma)
        if self.is_photo:
            photo = self.chain.clean.to(self.image)
            return self.chain.at(sigma).to(self.image) + share * (self.image - photo)
        return share * self.image + sigma * self.noise

    def start(self, sigma: float, draws: Sequence[int], seed: int, start: str) -> Tensor:
        """[B, C, H, W] at a sigma of the chain: the known image, and in the hole the start's noise.

        shuffle: the photo's own hole is shuffled within itself, another image's is drawn from the
        whole photo, with replacement. Below the chain's top the hole keeps the image under that
        noise.
        """
        chain, hole = self.chain, self.mask >= 0.5
        at_top = sigma >= chain.top
        noise, size = chain.end.cpu() if at_top else noise_of(chain, sigma), self.image.shape[2:]
        if start != "shuffle":
            drawn = start_latents(noise, tuple(size), draws, seed, start)
        elif self.is_photo:
            drawn = shuffled_within(noise, hole, draws, seed)
        else:
            drawn = draw_latents(noise, tuple(size), draws, seed, resample)
        if not at_top:
            drawn = chain.scaling.clean_share(sigma) * self.image + sigma * drawn
        return torch.where(hole, drawn, self.known(sigma))


def shuffled_within(noise: Tensor, holes: Tensor, draws: Sequence[int], seed: int) -> Tensor:
    """[B, C, H, W]: noise [1, C, H, W] with its positions permuted inside holes [B, 1, H, W] only.

    A draw is one permutation of all positions, of which each hole takes its own in their order:
    a hole that is everything gives what `shuffle` gives.
    """
    size = tuple(noise.shape[2:])
    places = torch.arange(math.prod(size))
    orders = start_latents(places.view(1, 1, *size), size, draws, seed, "shuffle").flatten(1)
    index = places.repeat(len(draws), 1)
    for own, order, inside in zip(index, orders, holes.flatten(1)):
        own[inside] = order[inside[order]]
    return noise[0].flatten(1)[:, index].transpose(0, 1).unflatten(2, size)
