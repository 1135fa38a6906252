"""Seeded miniature UNets of diffusers, and what goes into them. Needs no ComfyUI."""

from __future__ import annotations

import pytest
import seeded
import torch
from comfyui_rival.rival_core.diffusers.model import Prompt

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EPS, V = (diffusers.DDIMScheduler(**SD, prediction_type=p) for p in ("epsilon", "v_prediction"))


def build(**changes):
    """A seeded UNet of two levels whose prediction for unit noise has a deviation near 1."""
    config = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    unet = diffusers.UNet2DConditionModel(**{**config, **changes}).eval().requires_grad_(False)
    seeded.fill(unet, 0)
    seeded.normalize_output(unet.conv_out, 0.49)
    return unet


def prompt(seed: int, tokens: int = 6) -> Prompt:
    return Prompt(torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(seed)))


def photo(height: int = 8, width: int = 8):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 4, height, width, generator=generator)


EMPTY, NEGATIVE, CAPTION = prompt(1), prompt(2), prompt(3)


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


WIDTH = 32  # of a token of Flux's text, and of the pooled text
SCHEDULER = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)  # Flux dev's


def build_flux(**changes):
    """A seeded Flux transformer whose velocity for unit noise has a deviation near 1."""
    config = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "guidance_embeds": True,
        "axes_dims_rope": (8, 12, 12),
    }
    flux = diffusers.FluxTransformer2DModel(**{**config, **changes}).eval().requires_grad_(False)
    seeded.fill(flux, 0)
    for name, weight in flux.state_dict().items():  # sharper attention than random weights have
        weight.mul_(2.0 if name.endswith(("norm_k.weight", "norm_added_k.weight")) else 1.0)
    seeded.normalize_output(flux.proj_out, 1.4)
    return flux


def flux_prompt(seed: int, tokens: int = 6, **more) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    text, pooled = (torch.randn(*n, WIDTH, generator=generator) for n in ((1, tokens), (1,)))
    return Prompt(text, pooled, **more)
