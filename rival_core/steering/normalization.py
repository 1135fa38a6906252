"""Noise normalisation: adaptive instance statistics on the predicted noise (RIVAL eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

EPSILON = 1e-5  # the official code adds it to every variance


class Statistics(NamedTuple):
    """Per-channel statistics over all places, each [B, C, 1, 1]; the variance is unbiased."""

    mean: Tensor
    var: Tensor


def statistics(x: Tensor) -> Statistics:
    """The statistics of x [B, C, H, W], or [B, C, T, H, W]: over all but batch and channel."""
    places = tuple(range(2, x.ndim))
    return Statistics(x.mean(places, keepdim=True), x.var(places, keepdim=True))


def average(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """The weighted average of several exemplars' statistics."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    return Statistics(
        sum(share * part.mean for share, part in zip(shares, parts)),
        sum(share * part.var for share, part in zip(shares, parts)),
    )


def adain(eps: Tensor, target: Statistics, own: Statistics | None = None) -> Tensor:
    """eps [B, C, H, W] with the target's per-channel mean and variance.

    The mean is exact, the variance (var_R + 1e-5) var_G / (var_G + 1e-5), as officially.
    own: what counts as the statistics of eps, if not those of all of it.
    """
    own = own or statistics(eps)
    scale = ((target.var + EPSILON) / (own.var + EPSILON)).sqrt()
    return (eps - own.mean) * scale + target.mean
