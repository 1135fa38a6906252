"""The prediction, pulled towards the photo in a window of the schedule and a part of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..chain.chain import Chain
from ..errors import RivalError
from ..sampling.guidance import Keep, leading_home
from ..steering.masks import resize_mask
from ..values import choice, number

# What is left of the strength when so much of the window is done. cosine is OTIP's.
FADES = {
    "none": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}
GROWN = 1  # places to each side, by which what is edited counts for more than it is (UAM)


@dataclass(frozen=True, eq=False, repr=False)
class Pull:
    """D + share (photo - D) in place of the clean prediction D.

    Of a flow that is RF-Inversion's controller on the way down (2410.10792), share its eta: the
    velocity v becomes v + share ((x - photo) / sigma - v). FlowChef's k gradient steps with a
    frozen velocity (2412.00100), and the proximal pulls of ProxNPI and SPDInv, which keep the
    noise and move D by kappa, are the share kappa / (1 - next / sigma).

    photo: [1, C, H, W], clean, in the model's latent space. start, end: of the window, as
    fractions of the schedule, 0 at pure noise; an empty one is legal. fade: one of FADES.
    mask: [1, H, W] of any size, 1 where it pulls. keep_similar: see `similar`; 0 is off.
    chain: the photo's, if it has one. A pull with the share 1 then ends at the photo also where
    the chain does not end at 0.
    """

    photo: Tensor
    strength: float = 0.9
    start: float = 0.0
    end: float = 0.25
    fade: str = "none"
    mask: Tensor | None = None
    keep_similar: float = 0.0
    chain: Chain | None = None

    def __post_init__(self):
        for name in ("strength", "start", "end", "keep_similar"):
            number(name, getattr(self, name), 0.0, 1.0)
        choice("fade", self.fade, FADES)

    def __deepcopy__(self, memo) -> Pull:
        return self

    def share(self, percent: float) -> float:
        """How much it pulls at a fraction of the schedule: up to `end`, of which 1 is the last."""
        to_the_end = self.start < self.end == 1.0 <= percent
        if not (self.start <= percent < self.end or to_the_end):
            return 0.0
        done = (percent - self.start) / (self.end - self.start)
        return self.strength * FADES[self.fade](min(1.0, done))

    def __call__(self, x: Tensor, denoised: Tensor, sigma: float, percent: float) -> Tensor:
        """The prediction [B, C, H, W] for x at sigma, which is at that fraction of the schedule."""
        if (share := self.share(percent)) == 0.0:
            return denoised
        photo = self.photo.to(denoised)
        if photo.shape[1:] != denoised.shape[1:]:
            raise RivalError(
                f"the latent is {tuple(denoised.shape[2:])} and the photo to pull to "
                f"{tuple(photo.shape[2:])}: sample at the photo's size, or scale the photo"
            )
        weight = denoised.new_tensor(share)
        if self.mask is not None:
            weight = weight * resize_mask(self.mask, denoised)
        if self.keep_similar > 0.0:
            weight = weight * similar(denoised, photo, self.keep_similar * percent)
        pulled = torch.lerp(denoised, photo, weight)
        if self.chain is None:
            return pulled
        return torch.where(weight == 1.0, leading_home(self.chain, x, sigma), pulled)

    def is_kept_by(self, keep: Keep | None) -> bool:
        """Whether some of where it mostly pulls mostly stays the photo anyway."""
        if keep is None:
            return False
        images = self.photo.expand(len(keep.mask), *self.photo.shape[1:])
        kept = resize_mask(keep.mask, images) < 0.5
        if self.mask is not None:
            kept = kept & (resize_mask(self.mask, images) > 0.5)
        return bool(kept.any())


def similar(denoised: Tensor, photo: Tensor, quantile: float) -> Tensor:
    """1 where a prediction [B, C, H, W] is still like the photo, 0 where it is about to be edited.

    Edited is what differs, after a soft threshold at that quantile of the image's differences, by
    more than the threshold once more, and what is next to it in its channel (Uniform Attention
    Maps, 2411.19652, as its code has it, there between two branches).
    """
    away = (denoised - photo).abs()
    least = quantiles(away.flatten(1), quantile).view(-1, *[1] * (away.ndim - 1))
    edited = (away - least > least).to(away)
    planes = edited.flatten(0, -3)
    grown = max_pool2d(planes, 2 * GROWN + 1, stride=1, padding=GROWN)
    return 1.0 - grown.view(edited.shape)


def quantiles(x: Tensor, quantile: float) -> Tensor:
    """[B], of the rows of x [B, N]; PyTorch's own takes no more than 16 million numbers."""
    ordered, place = x.sort(dim=1).values, quantile * (x.shape[1] - 1)
    below = int(place)
    above = min(below + 1, x.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)
