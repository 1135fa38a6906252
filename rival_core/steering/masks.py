"""Masks at the sizes that latents and attention layers have."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..errors import RivalError

# Of attention layers: latent pixels to a side of a token.
RESOLUTIONS = {"full": 1, "half": 2, "quarter": 4, "eighth": 8}


def resize_mask(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [1 or B, H, W] at the size of a latent, [1 or B, 1, h, w] within 0 and 1.

    Of a latent with time, [1 or B, 1, 1, h, w]; RivalError if that is more than one frame.
    """
    if not is_of_images(like):
        raise RivalError(
            f"the latent has the shape {list(like.shape)}, and a mask is for images: use a model "
            "of images, or remove the mask"
        )
    mask, size = mask.float().clamp(0, 1)[:, None], tuple(like.shape[-2:])
    if mask.shape[2] >= size[0] and mask.shape[3] >= size[1]:
        mask = adaptive_avg_pool2d(mask, size)  # an edge between two places stays sharp
    else:
        mask = interpolate(mask, size, mode="bilinear")
    if len(mask) not in (1, len(like)):
        raise RivalError(
            f"the mask is a batch of {len(mask)} and the latent of {len(like)}: give one mask"
        )
    return mask.view(len(mask), *[1] * (like.ndim - 3), *size).to(like).clamp(0, 1)


def is_of_images(latent: Tensor) -> bool:
    """Whether a latent is [B, C, H, W], or [B, C, 1, H, W] of models whose latents have time."""
    return latent.ndim == 4 or (latent.ndim == 5 and latent.shape[2] == 1)


def token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
    """(latent pixels to a side of a token, the grid's height and width) of so many tokens."""
    for factor in RESOLUTIONS.values():
        grid = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
        if grid[0] * grid[1] == tokens:
            return factor, grid
    return None


def every_second(tokens: int, size: tuple[int, int]) -> Tensor | None:
    """The numbers [n] of a layer's tokens in every second row and column of a latent of this size.

    A quarter of them, rounded up along each side; None if the tokens are no grid over the latent.
    """
    found = token_grid(tokens, size)
    return None if found is None else torch.arange(tokens).view(found[1])[::2, ::2].flatten()


def tokens_inside(mask: Tensor, tokens: int, size: tuple[int, int]) -> Tensor:
    """The numbers [n] of a layer's tokens that a mask [1, H, W] covers by half or more.

    size: of the latent. At least one: the most covered. RivalError if the layer's tokens are no
    grid over the latent.
    """
    found = token_grid(tokens, size)
    if found is None:
        raise RivalError(
            f"a layer has {tokens} tokens and the photo's latent is {size}: exemplar_mask does "
            "not work with nodes that merge or cut tokens, remove them or the mask"
        )
    covered = adaptive_avg_pool2d(mask.float()[:, None], found[1]).flatten()
    inside = (covered >= 0.5).nonzero().flatten()
    return inside if len(inside) else covered.argmax()[None]
