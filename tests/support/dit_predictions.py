"""One prediction of a DiT beside a photo that was never inverted."""

from __future__ import annotations

import torch

SIGMA = 0.7


def photo(model, x, prompt, negative=None):
    """A chain whose latent at SIGMA is x; it was never inverted."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.chain import Chain

    return Chain(
        sigmas=torch.tensor([0.0, SIGMA]),
        latents=torch.cat([x, x]),
        scaling=host.scaling_of(model),
        model=host.model_card(model),
        positive=prompt,
        negative=negative,
    )


def apart(a, b) -> float:
    return float((a - b).norm() / b.norm())


def guided(model, x, positive, negative, cfg=3.0):
    """The guided velocity of latents [B, ...], through the host's sampler."""
    import comfy.sample
    import comfy.samplers

    seen = []
    comfy.sample.sample_custom(
        model, x / SIGMA, cfg, comfy.samplers.ksampler("euler"), torch.tensor([SIGMA, 0.0]),
        positive, negative, torch.zeros_like(x), disable_pbar=True, seed=0,
        callback=lambda step, denoised, *_: seen.append(denoised))  # fmt: skip
    return (x - seen[0]) / SIGMA
