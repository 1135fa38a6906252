"""How far pictures are from each other in colours and in texture, wherever in them these are.

Colours are in Oklab times 100, where a distance of 2 is just visible. Both distances are sliced
Wasserstein distances: between the pictures' pixels, and between the small patches of their details
at several scales (Karras et al., 1710.10196, section 5). Arithmetic on pixels, no model calls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, unfold

DIRECTIONS = 32  # along which distributions are compared
SCALES = 4  # of details: at full size, and at a half of that, and so on
PATCH = 3  # pixels to a side
PATCHES = 64**2  # that are looked at, at each scale, of all that there are


def oklab(images: Tensor) -> Tensor:
    """sRGB in 0..1, [n, 3, ...], to Oklab times 100 (Ottosson 2020)."""
    images = images.clamp(0, 1)
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    to_cones = torch.tensor([[0.4122214708, 0.5363325363, 0.0514459929],
                             [0.2119034982, 0.6806995451, 0.1073969566],
                             [0.0883024619, 0.2817188376, 0.6299787005]])
    to_lab = torch.tensor([[0.2104542553, 0.7936177850, -0.0040720468],
                           [1.9779984951, -2.4285922050, 0.4505937099],
                           [0.0259040371, 0.7827717662, -0.8086757660]])
    cones = torch.einsum("ij,nj...->ni...", to_cones, linear)
    return 100 * torch.einsum("ij,nj...->ni...", to_lab, cones.clamp(min=0) ** (1 / 3))


def palette(images: Tensor) -> Tensor:
    """The colours of pictures [n, 3, h, w] without their places, as `quantiles` [n, d, h * w]."""
    return quantiles(oklab(images).flatten(2), seed=0)


def textures(images: Tensor) -> list[Tensor]:
    """The details of pictures [n, 3, h, w] without their places: `quantiles` at each scale.

    A detail is what a pixel has and its surroundings, twice as coarse, have not. Scales at which a
    picture is smaller than a patch are left out.
    """
    colors, found = oklab(images), []
    for scale in range(SCALES):
        if min(colors.shape[2:]) < 2 * PATCH:
            break
        coarse = avg_pool2d(colors, 2)
        surroundings = interpolate(coarse, colors.shape[2:], mode="bilinear")
        patches = unfold(colors - surroundings, PATCH)
        generator = torch.Generator().manual_seed(scale)
        places = torch.randperm(patches.shape[2], generator=generator)[:PATCHES]
        found.append(quantiles(patches[:, :, places], seed=scale))
        colors = coarse
    return found


def quantiles(values: Tensor, seed: int) -> Tensor:
    """Points [n, c, p] without their order: along each of d random directions sorted, [n, d, p].

    A mean of several is the distribution that is nearest to all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(DIRECTIONS, values.shape[1], generator=generator)
    axes = nn.functional.normalize(axes, dim=1)
    return torch.einsum("dc,ncp->ndp", axes, values).sort(2)[0]


def apart(first: Tensor, second: Tensor) -> Tensor:
    """How far quantiles [n or 1, d, p] and [n or 1, d, q] are from each other, [n].

    Scaled so that pictures whose colours differ by one shift are as far apart as the shift is
    long; and so are, to a tenth, patches each of whose pixels differ by one.
    """
    if first.shape[2] != second.shape[2]:
        second = interpolate(second, first.shape[2], mode="linear")
    return 2 * (first - second).abs().mean((1, 2))


def palette_distance(images: Tensor, exemplar: Tensor) -> Tensor:
    """How far the colours of images [n, 3, h, w] are from an exemplar's [3, h, w], [n]."""
    return apart(palette(images), palette(exemplar[None]))
