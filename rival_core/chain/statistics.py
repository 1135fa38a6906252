"""How a chain's latents are distributed, against the Gaussian that plain sampling assumes.

The paper's distribution gap (RIVAL, section 3.1): a real image's inverted noise is not the unit
Gaussian that sampling starts from. No model calls.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .chain import Chain

MOST_LISTED = 16  # channels, in words


class Moments(NamedTuple):
    """Mean and standard deviation of every level and channel: both [S + 1, C], on the CPU."""

    mean: Tensor
    std: Tensor


def unit_scales(chain: Chain) -> Tensor:
    """[S + 1]: what each level's latent is divided by: sqrt(sigma_data**2 + sigma**2), 1 for flows.

    A latent of variance sigma_data**2 with Gaussian noise on top then has unit variance; a flow's
    has it at both ends only.
    """
    scaling = chain.scaling
    return torch.tensor([scaling.level(s) * scaling.sigma_data for s in chain.sigmas.tolist()])


def measured(chain: Chain) -> Moments:
    """The chain's own moments, each level divided by its unit scale."""
    scales = unit_scales(chain)[:, None]
    places = tuple(range(2, chain.latents.ndim))
    mean = chain.latents.mean(places).float().cpu()
    std = chain.latents.std(places, correction=0).float().cpu()
    return Moments(mean / scales, std / scales)


def assumed(chain: Chain) -> Moments:
    """The moments of this image with Gaussian noise added up to each level, in the same scale.

    That is what the model was trained on: x = share * image + sigma * noise.
    """
    image, scales = chain.clean[0], unit_scales(chain)[:, None]
    share = torch.tensor([[chain.scaling.clean_share(s)] for s in chain.sigmas.tolist()])
    places = tuple(range(1, image.ndim))
    mean = share * image.mean(places).float().cpu()
    std = image.std(places, correction=0).float().cpu()
    noise = chain.sigmas[:, None].cpu()
    return Moments(mean / scales, ((share * std) ** 2 + noise**2).sqrt() / scales)


def noise_width(chain: Chain, place: int = 1) -> float:
    """Of the level at a place, from 1, what was added to the image: its deviation, 1 for noise.

    A first level that is too high for the model to know the image's fine detail there makes noise
    of that detail. Where the detail has deviation s, the step that is exactly undone ends at a
    width of sigma / ((1 - sigma) s) (flows; of Gaussian detail), and the levels above keep it.
    """
    sigma = float(chain.sigmas[place])
    noise = chain.latents[place] - chain.scaling.clean_share(sigma) * chain.clean[0]
    return float(noise.float().std(correction=0)) / sigma


def pair_gaps(chain: Chain) -> list[float]:
    """Of each step how far EDICT's second latent is from the first, as a share of that."""
    first, second = (t[1:].flatten(1).float().cpu() for t in (chain.latents, chain.partner))
    return ((second - first).norm(dim=1) / first.norm(dim=1)).tolist()


def map_spreads(chain: Chain) -> list[float]:
    """The standard deviation of each step's noise map."""
    return chain.noise.flatten(1).float().std(dim=1, correction=0).cpu().tolist()


def chance(chain: Chain) -> tuple[float, float]:
    """Two standard errors of mean and of std, for unit white noise of the chain's size."""
    pixels = math.prod(chain.grid)
    return 2 / math.sqrt(pixels), 2 / math.sqrt(2 * pixels)


def listed(chain: Chain) -> list[int]:
    """The channels that are worth words: all, or of many those farthest from the unit Gaussian."""
    mean, std = (moment[-1] for moment in measured(chain))
    distance = mean.abs() + (std - 1).abs()
    return sorted(distance.argsort(descending=True)[:MOST_LISTED].tolist())


def gap_lines(chain: Chain) -> list[str]:
    """The noisiest level against the unit Gaussian, channel by channel."""
    own, plain = measured(chain), assumed(chain)
    of_mean, of_std = chance(chain)
    lines = [
        f"at the noisiest level (sigma {chain.top:.4g}), where plain sampling starts from mean 0 "
        f"and std 1 (chance alone: ±{of_mean:.3f} and ±{of_std:.3f}):"
    ]
    for channel in listed(chain):
        mean, std, its_mean, its_std = (
            float(moment[-1, channel]) for moment in (own.mean, own.std, plain.mean, plain.std)
        )
        lines.append(
            f"  channel {channel}: mean {mean:+.3f}, std {std:.3f}; the image with Gaussian noise "
            f"added: {its_mean:+.3f}, {its_std:.3f}"
        )
    channels = chain.latents.shape[1]
    if channels > MOST_LISTED:
        lines.append(f"  these {MOST_LISTED} of {channels} channels are the farthest from it")
    return lines


def moments_table(chain: Chain) -> str:
    """One line a level: sigma, each listed channel's mean and std, in the unit scale."""
    channels = listed(chain)
    own = Moments(*(moment[:, channels] for moment in measured(chain)))
    names = [f"{what}[{c}]" for what in ("mean", "std") for c in channels]
    lines = ["level  sigma    " + " ".join(f"{name:>8}" for name in names)]
    for i, (sigma, mean, std) in enumerate(zip(chain.sigmas.tolist(), *own)):
        values = [f"{v:+8.3f}" for v in mean.tolist()] + [f"{v:8.3f}" for v in std.tolist()]
        lines.append(f"{i:5d}  {sigma:<8.4g} " + " ".join(values))
    return "\n".join(lines)
