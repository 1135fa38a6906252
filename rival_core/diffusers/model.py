"""A diffusers UNet as the engine sees it, and ComfyUI's weights as diffusers' modules."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..chain.chain import ModelCard
from ..chain.tokens import Layer
from ..errors import RivalError
from ..inversion.scaling import Scaling
from ..inversion.schedule import TableTimesteps, rival_sigmas
from ..steering.step import Step
from .port import Hooks
from .self_attention import Injection, Processor, Recorder

if TYPE_CHECKING:  # imported where it is needed, since only this file's users have it
    from diffusers import AutoencoderTiny, UNet2DConditionModel

SD_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
PIXELS = 8  # of the image, to a side of one latent position
HEADS, HEAD_WIDTH = 8, 64  # SD1.x has so many heads at every width, SD2 and SDXL of such a width
UNET_PREFIX = "model.diffusion_model."


@dataclass(frozen=True, eq=False)
class Prompt:
    """What CONDITIONING is to the nodes: one text, encoded."""

    tokens: Tensor  # [1, L, D]
    pooled: Tensor | None = None  # [1, P], SDXL and Flux only
    time_ids: Tensor | None = None  # [1, 6], SDXL only; by default the image's own size, no crop
    guidance: float = 3.5  # where the model embeds one, as Flux dev does


class Model:
    """A diffusers UNet and the noise levels it was trained at: what a MODEL is to the nodes.

    scheduler: any of diffusers' schedulers that has betas; without one, SD's betas and eps.
    """

    def __init__(self, unet: Any, scheduler: Any = None):
        self.unet = unet
        self.layers = self_attentions(unet)
        check_unet(unet, self.layers)
        sigmas, self.is_v = training_sigmas(scheduler)
        self.timesteps = TableTimesteps(sigmas)
        self.scaling = Scaling(float(sigmas[-1]))
        self.is_sdxl = unet.config.get("addition_embed_type") is not None
        widths = ((*layer, attn.to_q.in_features) for layer, attn in self.layers.items())
        channels = f"{unet.config.in_channels} channels"
        self.card = ModelCard(f"diffusers {type(unet).__name__}", channels, tuple(widths))

    def schedule(self, steps: int) -> Tensor:
        """The paper's."""
        return rival_sigmas(self.timesteps, steps)

    def on_device(self, x: Tensor) -> Tensor:
        return x.to(self.unet.device, torch.float32)

    def denoise(self, x: Tensor, sigma: float, prompts: Sequence[Prompt]) -> list[Tensor]:
        """The denoised estimate of x [B, C, H, W] under each prompt, in one UNet call."""
        z = self.scaling.rescale(x, sigma, 0.0).to(self.unet.dtype)
        given, added = self.conditioning(prompts, x)
        out = self.unet(
            torch.cat([z] * len(prompts)),
            torch.tensor(self.timesteps.t(sigma), device=x.device),
            encoder_hidden_states=given,
            added_cond_kwargs=added,
        ).sample.float()
        level = self.scaling.level(sigma)
        if self.is_v:
            return [x / level**2 - v * (sigma / level) for v in out.chunk(len(prompts))]
        return [x - sigma * eps for eps in out.chunk(len(prompts))]

    def conditioning(self, prompts: Sequence[Prompt], x: Tensor) -> tuple[Tensor, dict | None]:
        """The UNet's text inputs, each prompt's rows after the last one's."""
        rows, (height, width) = len(x), x.shape[2:]

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.cat([p.to(x.device).expand(rows, *p.shape[1:]) for p in parts])

        # Repeated tokens leave softmax unchanged, so texts of two lengths fit in one batch.
        length = math.lcm(*(p.tokens.shape[1] for p in prompts))
        tokens = stack([p.tokens.repeat(1, length // p.tokens.shape[1], 1) for p in prompts])
        tokens = tokens.to(self.unet.dtype)
        if not self.is_sdxl:
            return tokens, None
        if any(p.pooled is None for p in prompts):
            raise RivalError("SDXL needs the pooled text embedding, too: give Prompt a pooled")
        sizes = torch.tensor([[height, width, 0, 0, height, width]]) * PIXELS
        sizes = [sizes if p.time_ids is None else p.time_ids for p in prompts]
        return tokens, {"text_embeds": stack([p.pooled for p in prompts]), "time_ids": stack(sizes)}

    def processor(self, layer: Layer, own: Any, hooks: Hooks) -> Processor:
        return Processor(layer, own, hooks)

    def recorder(self, rows: Sequence[str], x: Tensor) -> Recorder:
        return Recorder(rows)

    def injection(self, step: Step, roles: Sequence[str], x: Tensor) -> Injection:
        return Injection(step, roles)


def self_attentions(unet: Any) -> dict[Layer, Any]:
    """Every attn1 of the UNet, by its transformer's (block, place in it) and its depth there."""
    name = re.compile(r"(.+)\.(\d+)\.transformer_blocks\.(\d+)\.attn1")
    found = ((name.fullmatch(path), module) for path, module in unet.named_modules())
    return {((m[1], int(m[2])), int(m[3])): module for m, module in found if m}


def check_unet(unet: Any, layers: dict) -> None:
    """Raises unless latents and one text, and SDXL's sizes, are all that the UNet is given."""
    config = unet.config
    more = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
    if (
        not layers
        or config.in_channels != config.out_channels
        or config.get("addition_embed_type") not in (None, "text_time")
        or config.get("only_cross_attention")
        or any(config.get(name) for name in more)
    ):
        raise RivalError(
            f"this {type(unet).__name__} is not supported: give the UNet2DConditionModel of an "
            "SD1.x, SD2 or SDXL checkpoint, without inpainting or guidance channels"
        )


def training_sigmas(scheduler: Any) -> tuple[Tensor, bool]:
    """The sigma of each training timestep, and whether the model predicts v."""
    betas, prediction = SD_BETAS, "epsilon"
    if scheduler is not None:
        betas, prediction = getattr(scheduler, "betas", ()), scheduler.config.prediction_type
    if len(betas) != len(SD_BETAS) or prediction not in ("epsilon", "v_prediction"):
        raise RivalError(
            f"a scheduler with {len(betas)} betas and prediction_type {prediction} is not "
            "supported: give the checkpoint's as a DDIMScheduler, which has 1000, predicting "
            "epsilon or v_prediction"
        )
    alphas = torch.cumprod(1 - betas.double(), 0)
    return ((1 - alphas) / alphas).sqrt().float(), prediction == "v_prediction"


# --- from ComfyUI's weights ----------------------------------------------------------------------


def to_diffusers(
    weights: dict[str, Tensor], heads: int | None = None, head_width: int | None = None
) -> UNet2DConditionModel:
    """The float32 UNet of an SD1.x, SD2 or SDXL state dict, as ComfyUI names its weights.

    All but the attention heads is read off the shapes. By default there are 8 heads where the
    transformers' projections are convolutions (SD1.x), else heads of width 64 (SD2, SDXL).
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inside = {n.removeprefix(UNET_PREFIX): w for n, w in weights.items() if UNET_PREFIX in n}
    weights = inside or weights
    config = unet_config(weights, heads, head_width)
    unet = UNet2DConditionModel(**config)
    prefixed = {UNET_PREFIX + name: weight for name, weight in weights.items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, config))
    return unet.eval().requires_grad_(False)


def unet_config(weights: dict[str, Tensor], heads: int | None, head_width: int | None) -> dict:
    """What UNet2DConditionModel must be told to fit these weights."""
    levels = resolution_levels(weights)
    blocks = len(levels[0])
    widths, depths = zip(*(level[0] for level in levels))
    has_middle = "middle_block.0.in_layers.0.weight" in weights
    middle = transformer_depth(weights, "middle_block.1") if has_middle else depths[-1]
    if any(level != level[:1] * blocks for level in levels) or middle != (depths[-1] or middle):
        raise RivalError(
            f"the UNet's blocks (width, transformers) are {levels}, its middle has {middle}: "
            "diffusers takes as many blocks at every level, alike, and a middle like the last one"
        )
    projection = next(w for name, w in weights.items() if name.endswith(".proj_in.weight"))
    linear = projection.ndim == 2
    if heads is None and head_width is None:
        heads, head_width = (None, HEAD_WIDTH) if linear else (HEADS, None)
    text = next(w for name, w in weights.items() if name.endswith(".attn2.to_k.weight"))
    config = {
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(weights["out.2.weight"]),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if has_middle else None,
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "transformer_layers_per_block": [*(d or 1 for d in depths[:-1]), middle],
        "attention_head_dim": [heads or width // head_width for width in widths],  # their number
        "use_linear_projection": linear,
        "cross_attention_dim": text.shape[1],
    }
    if "label_emb.0.0.weight" in weights:  # SDXL's pooled text and image sizes
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = weights["label_emb.0.0.weight"].shape[1]
    return config


def resolution_levels(weights: dict[str, Tensor]) -> list[list[tuple[int, int]]]:
    """The (width, transformers) of each residual block on the way down, level by level."""
    levels: list[list[tuple[int, int]]] = [[]]
    for i in count(1):
        if f"input_blocks.{i}.0.op.weight" in weights:
            levels.append([])
        elif (last := weights.get(f"input_blocks.{i}.0.out_layers.3.weight")) is not None:
            levels[-1].append((len(last), transformer_depth(weights, f"input_blocks.{i}.1")))
        else:
            return levels


def transformer_depth(weights: dict[str, Tensor], module: str) -> int:
    start = f"{module}.transformer_blocks."
    return len({name[len(start) :].split(".")[0] for name in weights if name.startswith(start)})


def to_tiny_autoencoder(weights: dict[str, Tensor]) -> AutoencoderTiny:
    """The float32 autoencoder of a TAESD state dict, as ComfyUI names its weights.

    What it encodes and decodes are the model's latents: no scaling_factor is needed.
    """
    from diffusers import AutoencoderTiny

    name = re.compile(r"(?:.*\.)?taesd_(encoder|decoder)\.(\d+)\.(.+)")
    renamed = {}
    for match, weight in ((name.fullmatch(name_), weight) for name_, weight in weights.items()):
        if match:
            half, place, rest = match.groups()  # ComfyUI's decoder begins with its clamp
            renamed[f"{half}.layers.{int(place) - (half == 'decoder')}.{rest}"] = weight
    vae = AutoencoderTiny(latent_channels=renamed["decoder.layers.0.weight"].shape[1])
    vae.load_state_dict(renamed)
    return vae.eval().requires_grad_(False)
