"""How far pictures are from each other in colours and in texture, wherever in them these are.

Colours are compared in Oklab times 100, where a distance of 2 is just visible. Arithmetic on
pixels, no model calls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIRECTIONS = 32  # along which colour distributions are compared
LAGS = 32  # pixels, each way, over which a texture is compared with itself
OVERLAP = 0.05  # of all pixels that a lag must be known from


# --- colour ---------------------------------------------------------------------------------------


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
    """The colours of pictures [n, 3, h, w] without their places: [n, DIRECTIONS, h * w], sorted.

    Along each direction these are quantiles, so that a mean over pictures is a palette again: the
    one that all of them are nearest to.
    """
    generator = torch.Generator().manual_seed(0)
    axes = nn.functional.normalize(torch.randn(DIRECTIONS, 3, generator=generator), dim=1)
    return torch.einsum("dc,ncp->ndp", axes, oklab(images).flatten(2)).sort(2)[0]


def palettes_apart(first: Tensor, second: Tensor) -> Tensor:
    """The sliced Wasserstein distance of palettes [n or 1, DIRECTIONS, p], [n].

    Scaled so that pictures whose colours differ by one shift are as far apart as the shift is long.
    """
    return 2 * (first - second).abs().mean((1, 2))


def palette_distance(images: Tensor, exemplar: Tensor) -> Tensor:
    """How far the colours of images [n, 3, h, w] are from an exemplar's [3, h, w], [n]."""
    return palettes_apart(palette(images), palette(exemplar[None]))


# --- texture --------------------------------------------------------------------------------------


def texture_distance(images: Tensor, masks: Tensor, exemplar: Tensor, mask: Tensor) -> Tensor:
    """How unlike the backgrounds of images [n, 3, h, w] and an exemplar [3, h, w] repeat, [n].

    masks, mask: what is foreground. Compares period, angle and contrast, in units of colour, and
    is blind to where a texture begins: a background's autocovariance over every lag, that is, its
    power spectrum, but known from the pixels that show background alone.
    """
    return textures_apart(autocovariance(images, ~masks),
                          autocovariance(exemplar[None], ~mask[None]))


def textures_apart(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """How far textures are from each other, [n], over the lags that both know: in units of colour.

    Each as `autocovariance` gives it, of n pictures or of one.
    """
    (ours, known), (theirs, also) = first, second
    use = (known & also).float()
    difference = ((ours - theirs).abs() * use).sum((1, 2)) / use.sum((1, 2)).clamp(min=1)
    return difference.sqrt()


def autocovariance(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Of colours over lags up to LAGS each way, [n, k, k], and which lags are known.

    known: [n, h, w] bool, the pixels to look at. Means are those of each lag's own pairs, or where
    a texture begins would show in them.
    """
    weight = known[:, None].float()
    pixels = oklab(images)
    total = weight.sum((2, 3), keepdim=True).clamp(min=1)
    pixels = (pixels - (pixels * weight).sum((2, 3), keepdim=True) / total) * weight
    room = [side + LAGS for side in images.shape[2:]]
    colors, weights = torch.fft.rfft2(pixels, s=room), torch.fft.rfft2(weight, s=room)
    pairs = _correlation(weights, weights, room).round()
    fewest = pairs.clamp(min=1)
    products = _correlation(colors, colors, room) / fewest
    means = (_correlation(colors, weights, room) / fewest,
             _correlation(weights, colors, room) / fewest)
    enough = pairs[:, 0] > OVERLAP * known[0].numel()
    return torch.where(enough, (products - means[0] * means[1]).sum(1), 0.0), enough


def _correlation(first: Tensor, second: Tensor, room: list[int]) -> Tensor:
    """Sums of products of two spectra's pictures over lags of -LAGS..LAGS each way."""
    sums = torch.fft.irfft2(first * second.conj(), s=room).roll((LAGS, LAGS), (2, 3))
    return sums[:, :, :2 * LAGS + 1, :2 * LAGS + 1]
