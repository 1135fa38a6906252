"""Blended guidance: a scale for every pixel, and masks from cross-attention (AIDI, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from ..chain.chain import Chain
from ..errors import RivalError
from ..steering.masks import RESOLUTIONS, resize_mask, token_grid

USUAL_FACTOR = 4  # Prompt-to-Prompt's 16 x 16 maps of a 64 x 64 latent


def blended(denoised: Tensor, cond: Tensor, uncond: Tensor, outside: float, mask: Tensor) -> Tensor:
    """The guided prediction inside the mask, guidance at the scale `outside` elsewhere.

    omega = outside + (inside - outside) mask: at 0 and 1 bitwise the one or the other. All
    [B, C, H, W], the mask [1 or B, 1, H, W].
    """
    low = cond if outside == 1.0 else uncond + (cond - uncond) * outside
    return torch.lerp(low, denoised, mask.to(denoised))


@dataclass(frozen=True, eq=False, repr=False)
class Blend:
    """Guidance inside a mask as the sampler has it, at the scale `outside` elsewhere.

    mask: [1 or B, H, W] of any size, 1 inside.
    """

    mask: Tensor
    outside: float

    def __deepcopy__(self, memo) -> Blend:
        return self

    def __call__(self, denoised: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
        """The guided prediction, blended; all [B, C, H, W]."""
        return blended(denoised, cond, uncond, self.outside, resize_mask(self.mask, denoised))


@dataclass(frozen=True, eq=False, repr=False)
class Keep:
    """The photo kept outside a mask: there every step continues the chain, and ends at the photo.

    mask: [1 or B, H, W] of any size, 1 where the image is free.
    """

    chain: Chain
    mask: Tensor

    def __deepcopy__(self, memo) -> Keep:
        return self

    def enter(self, x: Tensor, sigma: float) -> Tensor:
        """What the model sees: the chain's own latent outside the mask."""
        known = self.chain.at(sigma).to(x)
        if known.shape[2:] != x.shape[2:]:
            raise RivalError(
                f"the latent is {tuple(x.shape[-2:])} and the photo to be kept "
                f"{tuple(known.shape[-2:])}: sample at the photo's size, or do not keep it"
            )
        return torch.lerp(known, x, resize_mask(self.mask, x))

    def leave(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        """The prediction with, outside the mask, the one that leads Euler straight to the photo."""
        return torch.lerp(leading_home(self.chain, x, sigma), denoised, resize_mask(self.mask, x))


def leading_home(chain: Chain, x: Tensor, sigma: float) -> Tensor:
    """The prediction for x [B, C, H, W] that leads Euler straight to a chain's photo.

    To its first latent at its own sigma, where that is still below.
    """
    first = float(chain.sigmas[0])
    if sigma > first * 1.0001:
        return (sigma * chain.latents[:1].to(x) - first * x) / (sigma - first)
    return chain.clean.to(x)


# --- masks from cross-attention ------------------------------------------------------------------


def word_positions(text: Sequence, words: Sequence[Sequence]) -> list[int]:
    """Where any of the words' token sequences stand in the text's tokens."""
    found: set[int] = set()
    for word in words:
        n = len(word)
        starts = [i for i in range(len(text) - n + 1) if list(text[i : i + n]) == list(word)]
        found.update(i + j for i in starts for j in range(n))
    return sorted(found)


def attention_to(q: Tensor, k: Tensor, heads: int, positions: Sequence[int]) -> Tensor:
    """How much each query attends to the tokens at these positions, [B, L], mean over heads.

    q: [B, L, heads * D], k: [B, T, heads * D].
    """
    q, k = (rearrange(t.float(), "b l (h d) -> b h l d", h=heads) for t in (q, k))
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3)
    return weights[..., list(positions)].sum(dim=3).mean(dim=1)


def attention_mask(
    maps: Sequence[Tensor], size: tuple[int, int], resolution: str, threshold: float, blur: float
) -> Tensor:
    """A mask [1, H, W] from attention maps [1, L] of any layers and steps, for a latent's size.

    Mean over the maps at the chosen resolution ("auto": the nearest to a quarter that there is),
    divided by its maximum, enlarged, blurred by so many latent pixels. A threshold, unless it is
    0, makes it hard before that; it is then grown by a token, as Prompt-to-Prompt's masks are,
    because attention fades towards an object's edge.
    """
    by_factor: dict[int, list[Tensor]] = {}
    for flat in maps:
        if (grid := token_grid(flat.shape[1], size)) is not None:
            by_factor.setdefault(grid[0], []).append(flat.view(1, 1, *grid[1]))
    factor = _choose(by_factor, resolution)
    mean = torch.cat(by_factor[factor]).mean(dim=0, keepdim=True)
    if threshold > 0:
        mean = max_pool2d(mean, 3, stride=1, padding=1)
    mask = interpolate(mean / mean.max().clamp(min=1e-12), size, mode="bilinear")
    if threshold > 0:
        mask = (mask > threshold).float()
    return gaussian_blur(mask, blur)[:, 0].clamp(0, 1)


def _choose(by_factor: dict[int, list[Tensor]], resolution: str) -> int:
    if not by_factor:
        raise RivalError("the model has no cross-attention at the latent's size: connect a mask")
    if resolution == "auto":
        return min(by_factor, key=lambda factor: abs(math.log2(factor / USUAL_FACTOR)))
    factor = RESOLUTIONS[resolution]
    if factor not in by_factor:
        names = [name for name, there in RESOLUTIONS.items() if there in by_factor]
        raise RivalError(
            f"the model has no cross-attention at resolution {resolution!r}: choose "
            f"{' or '.join(names)}, or auto"
        )
    return factor


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """x [B, 1, H, W] blurred; the border's values go on outside."""
    if sigma <= 0:
        return x
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = pad(x, (reach, reach, reach, reach), mode="replicate")
    return conv2d(conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])
