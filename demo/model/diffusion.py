"""Stable Diffusion's noise schedule: the training loss, and DDIM to look at what was learnt."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

TIMESTEPS = 1000
SNR_CAP = 5.0  # min-SNR weighting (arXiv 2303.09556): easy, nearly clean timesteps count less
NOISY_CAP = 8.0  # and very noisy ones more, up to this: there the caption decides the picture

# The quick one for the backward pass of so few tokens on a CPU; on a GPU whatever torch prefers.
ATTENTION = {"cpu": [SDPBackend.MATH],
             "cuda": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]}


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def noise_loss(unet: nn.Module, latents: torch.Tensor, text: torch.Tensor,
               generator: torch.Generator) -> torch.Tensor:
    """Weighted squared error of the predicted noise; noisier timesteps are drawn more often."""
    n, device = len(latents), latents.device
    spread = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    timesteps = (spread.sqrt() * TIMESTEPS).long()
    noise = torch.randn(latents.shape, generator=generator)
    kept = alphas_cumprod()[timesteps]
    weight = _weight(kept / (1 - kept))
    kept = kept[:, None, None, None].to(device)
    noise, timesteps, weight = (part.to(device) for part in (noise, timesteps, weight))
    noised = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(ATTENTION[device.type]):
        predicted = unet(noised.contiguous(memory_format=torch.channels_last), timesteps,
                         context=text)
    error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
    return (weight * error).mean()


def _weight(snr: torch.Tensor) -> torch.Tensor:
    """Of the noise's squared error: cap/SNR, then 1 down to an SNR of 1, then 1/sqrt(SNR)."""
    return (SNR_CAP / snr).clamp(max=1) * snr.rsqrt().clamp(1, NOISY_CAP)


@torch.no_grad()
def sample(unet: nn.Module, text: torch.Tensor, empty: torch.Tensor, size: int, seed: int,
           steps: int = 20, cfg: float = 4.0) -> torch.Tensor:
    """DDIM with classifier-free guidance: latents [n, 4, size, size]."""
    n, device = len(text), text.device
    kept_at = alphas_cumprod().to(device)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, size, size, generator=generator).to(device)
    both = torch.cat([text, empty.expand(n, -1, -1)])
    times = torch.linspace(TIMESTEPS - 1, 0, steps + 1).round().long().tolist()
    for time, next_time in zip(times, [*times[1:-1], None]):
        with torch.autocast(device.type, torch.bfloat16):
            prediction = unet(torch.cat([x, x]), torch.full((2 * n,), time, device=device),
                              context=both).float()
        guided, plain = prediction.chunk(2)
        noise = plain + cfg * (guided - plain)
        kept = kept_at[time]
        clean = (x - (1 - kept).sqrt() * noise) / kept.sqrt()
        if next_time is None:
            return clean
        kept = kept_at[next_time]
        x = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    return x
