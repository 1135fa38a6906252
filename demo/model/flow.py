"""Flow matching: the training loss, and Euler steps to look at what was learnt."""

from __future__ import annotations

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn

SHIFT = 2.0  # times are drawn, and stepped through, evenly but for this shift towards noise


# What suits this model of RIVAL's settings, where it is not what suits SD (docs/quality.md): a walk
# whose last steps are short, and a photo that is read once the layout stands.
SCHEDULE = "beta"
GATES = {"inject_start": 0.5}


def shifted(times: Tensor, shift: float = SHIFT) -> Tensor:
    """As ComfyUI's flow models do it."""
    return shift * times / (1 + (shift - 1) * times)


def simple(steps: int) -> Tensor:
    """[steps + 1] falling levels, ComfyUI's simple."""
    return shifted(torch.linspace(1, 0, steps + 1))


def beta(steps: int) -> Tensor:
    """[steps + 1] falling levels, ComfyUI's beta: quantiles of Beta(0.6, 0.6) in its table of 1000.

    Fewer from some 100 steps on, of which the first and last are one in that table.
    """
    shares = 1 - np.linspace(0, 1, steps, endpoint=False)
    table = torch.from_numpy(np.rint(scipy.stats.beta.ppf(shares, 0.6, 0.6) * 999) + 1)
    return shifted(torch.cat([table.unique_consecutive(), table.new_zeros(1)]) / 1000).float()


def even_times(n: int, generator: torch.Generator) -> Tensor:
    """[n], spread evenly but for the shift."""
    return shifted(_spread(n, generator))


def learning_times(n: int, generator: torch.Generator) -> Tensor:
    """Every second one from where shapes and textures form: 0.4 to 0.85, for the most part."""
    spread = _spread(n, generator)
    middle = torch.sigmoid(0.6 + 0.7 * torch.special.ndtri(spread))
    return torch.where(torch.arange(n) % 2 == 1, middle, shifted(spread))


def _spread(n: int, generator: torch.Generator) -> Tensor:
    return (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n


def noised(latents: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents on their way to noise, and the velocity there. sigma: [n]."""
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return torch.lerp(latents, noise, sigma[:, None, None, None]), noise - latents


def flow_loss(network: nn.Module, latents: Tensor, text: Tensor,
              generator: torch.Generator) -> Tensor:
    """Squared error of the velocity. latents: [n, 16, h, w]; text: [m, 77, 768], m divides n."""
    sigma = even_times(len(latents), generator).to(latents.device)
    x, velocity = noised(latents, sigma, generator)
    with torch.autocast(latents.device.type, torch.bfloat16):
        return (network(x, sigma, text) - velocity).square().mean()


@torch.no_grad()
def sample(network: nn.Module, text: Tensor, empty: Tensor, size: tuple[int, int], seed: int,
           steps: int = 20, cfg: float = 3.0, shift: float = SHIFT) -> Tensor:
    """Latents [n, 16, *size] for n texts, with classifier-free guidance by the empty one."""
    n, device = len(text), text.device
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, *size, generator=generator).to(device)
    both = torch.cat([text, empty.expand(n, -1, -1)])
    sigmas = shifted(torch.linspace(1, 0, steps + 1), shift).to(device)
    for sigma, following in zip(sigmas, sigmas[1:]):
        with torch.autocast(device.type, torch.bfloat16):
            guided, plain = network(torch.cat([x, x]), sigma.expand(2 * n), both).chunk(2)
        x = x + (following - sigma) * (plain + cfg * (guided - plain))
    return x
