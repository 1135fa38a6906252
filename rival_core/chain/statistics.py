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
    mean = chain.latents.mean((2, 3)).float().cpu()
    std = chain.latents.std((2, 3), correction=0).float().cpu()
    return Moments(mean / scales, std / scales)


def assumed(chain: Chain) -> Moments:
    """The moments of this image with Gaussian noise added up to each level, in the same scale.

    That is what the model was trained on: x = share * image + sigma * noise.
    """
    image, scales = chain.clean[0], unit_scales(chain)[:, None]
    share = torch.tensor([[chain.scaling.clean_share(s)] for s in chain.sigmas.tolist()])
    mean = share * image.mean((1, 2)).float().cpu()
    std = image.std((1, 2), correction=0).float().cpu()
    noise = chain.sigmas[:, None].cpu()
    return Moments(mean / scales, ((share * std) ** 2 + noise**2).sqrt() / scales)


def chance(chain: Chain) -> tuple[float, float]:
    """Two standard errors of mean and of std, for unit white noise of the chain's size."""
    pixels = chain.latents.shape[2] * chain.latents.shape[3]
    return 2 / math.sqrt(pixels), 2 / math.sqrt(2 * pixels)


def gap_lines(chain: Chain) -> list[str]:
    """The noisiest level against the unit Gaussian, channel by channel."""
    own, plain = measured(chain), assumed(chain)
    of_mean, of_std = chance(chain)
    lines = [
        f"at the noisiest level (sigma {chain.top:.4g}), where plain sampling starts from mean 0 "
        f"and std 1 (chance alone: ±{of_mean:.3f} and ±{of_std:.3f}):"
    ]
    for channel, (mean, std) in enumerate(zip(own.mean[-1].tolist(), own.std[-1].tolist())):
        lines.append(
            f"  channel {channel}: mean {mean:+.3f}, std {std:.3f}; the image with Gaussian noise "
            f"added: {float(plain.mean[-1, channel]):+.3f}, {float(plain.std[-1, channel]):.3f}"
        )
    return lines


def moments_table(chain: Chain) -> str:
    """One line a level: sigma, each channel's mean, each channel's std, in the unit scale."""
    own, channels = measured(chain), chain.latents.shape[1]
    names = [f"{what}[{c}]" for what in ("mean", "std") for c in range(channels)]
    lines = ["level  sigma    " + " ".join(f"{name:>8}" for name in names)]
    for i, (sigma, mean, std) in enumerate(zip(chain.sigmas.tolist(), *own)):
        values = [f"{v:+8.3f}" for v in mean.tolist()] + [f"{v:8.3f}" for v in std.tolist()]
        lines.append(f"{i:5d}  {sigma:<8.4g} " + " ".join(values))
    return "\n".join(lines)
