"""How near a variation is to its exemplar, and how far variations are from each other.

Colours are compared in Oklab times 100, where a distance of 2 is just visible: see
rival_core/choosing/measures.py, which has the palettes' distance, too. Everything here is
arithmetic on pixels; what takes a network to see is in `judge.py`.
"""

from __future__ import annotations

import math
from itertools import combinations

import in_process
import torch
from torch import Tensor, nn

in_process.register_pack()
from comfyui_rival.rival_core.choosing.measures import oklab

LAGS = 32  # pixels, each way, over which a texture is compared with itself
OVERLAP = 0.05  # of all pixels that a lag must be known from


# --- what is shape and what is background ---------------------------------------------------------


def foreground(images: Tensor, color: tuple, background: tuple, second: tuple) -> Tensor:
    """Where the shapes are, [n, h, w] bool: nearer to their colour than to any mix of the shades.

    The three colours are a scene's true ones, RGB in 0..1. Single stray pixels are left out.
    """
    pixels = oklab(images)
    color, first, other = (oklab(torch.tensor([c]).float()[..., None, None])
                           for c in (color, background, second))
    along = other - first
    share = ((pixels - first) * along).sum(1, keepdim=True) / along.square().sum().clamp(min=1e-6)
    mixed = first + share.clamp(0, 1) * along
    nearer = (pixels - color).norm(dim=1) < (pixels - mixed).norm(dim=1)
    return nn.functional.avg_pool2d(nearer[:, None].float(), 3, 1, 1)[:, 0] > 0.5


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks [..., h, w]; two empty ones are the same."""
    both = (first & second).sum((-2, -1)).float()
    either = (first | second).sum((-2, -1)).float()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def layout_distance(masks: Tensor, exemplar: Tensor) -> Tensor:
    """1 - IoU of each mask [n, h, w] with the exemplar's, [n]: 0 is a copied layout."""
    return 1 - overlap(masks, exemplar)


def layout_diversity(masks: Tensor) -> float:
    """1 - IoU, the mean over all pairs of masks [n, h, w]."""
    pairs = [1 - overlap(masks[i], masks[j]) for i, j in combinations(range(len(masks)), 2)]
    return float(torch.stack(pairs).mean()) if pairs else math.nan


def likeness(images: Tensor, exemplar: Tensor) -> Tensor:
    """The correlation of pictures [n, 3, h, w] with an exemplar, pixel by pixel, [n]: 1 is a copy.
    """
    first, second = (x - x.mean((2, 3), keepdim=True) for x in (images, exemplar[None]))
    products = (first * second).sum((1, 2, 3))
    return products / (first.flatten(1).norm(dim=1) * second.norm()).clamp(min=1e-6)


# --- texture --------------------------------------------------------------------------------------


def texture_distance(images: Tensor, masks: Tensor, exemplar: Tensor, mask: Tensor) -> Tensor:
    """How unlike the backgrounds of images [n, 3, h, w] and an exemplar [3, h, w] repeat, [n].

    masks, mask: what is foreground. Compares period, angle and contrast, in units of colour, and
    is blind to where a texture begins: a background's autocovariance over every lag, that is, its
    power spectrum, but known from the pixels that show background alone.
    """
    ours, known = autocovariance(images, ~masks)
    theirs, also = autocovariance(exemplar[None], ~mask[None])
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


# --- reconstruction -------------------------------------------------------------------------------


def psnr(x: Tensor, true: Tensor, peak: float | None = None) -> float:
    """In dB; the peak is by default the true one's range."""
    peak = float(true.max() - true.min()) if peak is None else peak
    error = float((x - true).square().mean())
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)
