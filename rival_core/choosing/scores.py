"""How far each picture of a batch is from a photo, or from what the batch has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import RivalError
from ..steering.masks import resize_mask
from .measures import apart, oklab, palette, textures

PALETTE, TEXTURE, OUTSIDE = "palette", "texture", "outside mask"
SCORES = (PALETTE, TEXTURE, OUTSIDE)
AREA = 256**2  # pixels that pictures are measured at, if they have as many
PALETTE_AREA = 128**2  # and of palettes: sorting costs the most
ASPECTS = 0.05  # by which photo and picture may differ and show the same frame: VAEs cut an edge


@dataclass(frozen=True)
class Score:
    """One distance of every picture, [n] in units of colour (see measures), or why there is none.
    """

    values: Tensor | None = None
    missing: str = ""

    def ranking(self) -> list[int]:
        """The pictures' numbers from 1, the nearest first, equals in their order."""
        if self.values is None:
            raise RivalError(self.missing)
        return [i + 1 for i in self.values.argsort(stable=True).tolist()]


def measure(
    images: Tensor, photos: Tensor | None = None, mask: Tensor | None = None
) -> dict[str, Score]:
    """Every score of images [n, 3, H, W], sRGB in 0..1; no model calls.

    photos: [m, 3, H', W'], whose colours and textures count as one, their mean; None: the images'
    own. mask: [1 or n, h, w] of any size, 1 where an image may differ from the only photo.
    """
    given = [images] if photos is None else [images, photos]
    area = min(AREA, *(x.shape[2] * x.shape[3] for x in given))
    ours = shrunk(images, area)
    theirs = ours if photos is None else shrunk(photos, area)
    colors = [shrunk(x, min(area, PALETTE_AREA)) for x in (ours, theirs)]
    return {
        PALETTE: Score(to_mean(*(torch.cat([*map(palette, x.split(1))]) for x in colors))),
        TEXTURE: texture(ours, theirs),
        OUTSIDE: outside(ours, photos, mask),
    }


def shrunk(images: Tensor, area: int) -> Tensor:
    """Pictures [n, 3, h, w] of about so many pixels, in float32 on the CPU, one after the other.

    What is no number is black, as where pictures are saved.
    """
    height, width = images.shape[2:]
    scale = math.sqrt(area / (height * width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return torch.cat([sized(image[None], size) for image in images])


def sized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [1, 3, H, W], averaged to a size that is hardly larger."""
    image = image.float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    return adaptive_avg_pool2d(image, size).cpu()


def texture(ours: Tensor, theirs: Tensor) -> Score:
    """The distance of details, the mean of those at every scale."""
    first, second = (zip(*map(textures, x.split(1))) for x in (ours, theirs))
    scales = [to_mean(torch.cat(x), torch.cat(y)) for x, y in zip(first, second)]
    if not scales:
        return Score(missing="a picture of so few pixels has no texture: give larger ones")
    return Score(torch.stack(scales).mean(0))


def to_mean(first: Tensor, second: Tensor) -> Tensor:
    """How far quantiles [n, d, p] are from the mean of others [m, d, q], [n]."""
    return apart(first, second.mean(0, keepdim=True))


def outside(ours: Tensor, photos: Tensor | None, mask: Tensor | None) -> Score:
    """The mean distance of colours, pixel by pixel, from the photo outside the mask."""
    if photos is None or mask is None:
        return Score(missing="what stayed outside a mask takes a photo and a mask: connect both")
    if len(photos) > 1:
        return Score(missing=f"what stayed outside a mask takes one photo, and photo holds "
                             f"{len(photos)}: connect one")
    size = tuple(ours.shape[2:])
    if abs(math.log(photos.shape[3] * size[0] / (photos.shape[2] * size[1]))) > ASPECTS:
        return Score(missing="what stayed outside a mask takes a photo of the images' shape: cut "
                             "it as it was cut before it was encoded")
    weight = 1 - resize_mask(mask.cpu(), ours)
    if not weight.flatten(1).any(1).all():
        return Score(missing="the mask covers everything, so nothing is outside it: paint less")
    apart = (oklab(ours) - oklab(framed(photos, size))).norm(dim=1, keepdim=True)
    return Score((apart * weight).sum((1, 2, 3)) / weight.expand_as(apart).sum((1, 2, 3)))


def framed(photo: Tensor, size: tuple[int, int]) -> Tensor:
    """A photo [1, 3, H, W] at this size, its longer side cut at both ends."""
    height, width = photo.shape[2:]
    scale = min(height / size[0], width / size[1])
    rows, columns = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return sized(photo[:, :, top : top + rows, left : left + columns], size)
