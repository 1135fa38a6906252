"""A diffusers Flux transformer as the engine sees it: a flow, whose sigma is the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..chain.chain import ModelCard
from ..chain.tokens import Layer
from ..errors import RivalError
from ..inversion.scaling import FlowScaling
from ..inversion.schedule import FlowTimesteps
from ..steering.positions import Grid
from ..steering.step import Step
from ..values import whole_number
from .joint import Injection, Processor, Recorder, Target, image_ids
from .model import Prompt
from .port import Hooks

PATCH = 2  # latent pixels to a side of a token


class FlowModel:
    """A FluxTransformer2DModel and the bend of its noise levels: what a MODEL is to the nodes.

    scheduler: the checkpoint's FlowMatchEulerDiscreteScheduler. mu: by how much it shifts, where it
    does so by resolution; by default as for the largest images it knows.
    RivalError for another kind of either.
    """

    def __init__(self, transformer: Any, scheduler: Any, mu: float | None = None):
        check_transformer(transformer)
        self.transformer = transformer
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        self.layers = {(("dit", i), 0): block.attn for i, block in enumerate(blocks)}
        self.timesteps = FlowTimesteps(percent_to_sigma(scheduler, mu))
        self.scaling = FlowScaling()
        widths = tuple((*layer, attn.inner_dim) for layer, attn in self.layers.items())
        channels = f"{transformer.config.in_channels // PATCH**2} channels"
        self.card = ModelCard(f"diffusers {type(transformer).__name__}", channels, widths)

    def schedule(self, steps: int) -> Tensor:
        """Even percents, from pure noise to the clean image: 1 to 0, whatever the shift."""
        whole_number("steps", steps, 1)
        percents = (i / steps for i in range(steps + 1))
        return torch.tensor([self.timesteps.percent_to_sigma(p) for p in percents])

    def on_device(self, x: Tensor) -> Tensor:
        return x.to(self.transformer.device, torch.float32)

    def denoise(self, x: Tensor, sigma: float, prompts: Sequence[Prompt]) -> list[Tensor]:
        """The denoised estimate of x [B, C, H, W] under each prompt, in one transformer call.

        RivalError for an odd height or width, or texts of different lengths.
        """
        grid, rows = grid_of(x), len(x) * len(prompts)
        places = torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in grid)).float()
        text, given = self.conditioning(prompts, x)
        velocity = self.transformer(
            hidden_states=torch.cat([packed(x)] * len(prompts)).to(text),
            encoder_hidden_states=text,
            timestep=torch.full([rows], sigma, device=x.device),
            img_ids=image_ids(places),
            txt_ids=places.new_zeros(text.shape[1], 3),
            **given,
        ).sample.float()
        return [x - sigma * unpacked(v, grid) for v in velocity.chunk(len(prompts))]

    def conditioning(self, prompts: Sequence[Prompt], x: Tensor) -> tuple[Tensor, dict]:
        """The texts [B * prompts, L, D], each prompt's rows after the last one's, and the rest."""
        lengths = {p.tokens.shape[1] for p in prompts}
        if len(lengths) > 1:
            raise RivalError(
                f"texts of {sorted(lengths)} tokens go into one call and share attention with the "
                "image: encode them padded to one length"
            )
        if any(p.pooled is None for p in prompts):
            raise RivalError("Flux needs the pooled text embedding, too: give Prompt a pooled")

        def stack(parts: list[Tensor]) -> Tensor:
            rows = torch.cat([part.expand(len(x), *part.shape[1:]) for part in parts])
            return rows.to(x.device, self.transformer.dtype)

        given = {"pooled_projections": stack([p.pooled for p in prompts])}
        if self.transformer.config.guidance_embeds:
            given["guidance"] = stack([torch.tensor([p.guidance]) for p in prompts])
        return stack([p.tokens for p in prompts]), given

    def processor(self, layer: Layer, own: Any, hooks: Hooks) -> Processor:
        return Processor(layer, own, hooks)

    def recorder(self, rows: Sequence[str], x: Tensor) -> Recorder:
        return Recorder(rows, grid_of(x))

    def injection(self, step: Step, roles: Sequence[str], x: Tensor) -> Injection:
        return Injection(step, roles, Target(self.transformer.pos_embed, grid_of(x)))


def check_transformer(transformer: Any) -> None:
    """Raises unless a latent, a text and a guidance are all that the transformer is given."""
    from diffusers import FluxTransformer2DModel

    name = type(transformer).__name__
    if not isinstance(transformer, FluxTransformer2DModel):
        raise RivalError(f"this {name} is not supported: give a FluxTransformer2DModel")
    config = transformer.config
    if config.patch_size != 1 or config.in_channels != (config.out_channels or config.in_channels):
        raise RivalError(
            f"this {name} takes {config.in_channels} channels and gives {config.out_channels}: "
            "give one without inpainting or control channels"
        )


def percent_to_sigma(scheduler: Any, mu: float | None = None) -> Callable[[float], float]:
    """A scheduler's noise level at a fraction of the schedule: 1 at 0, pure noise, and 0 at 1.

    RivalError for another kind of scheduler, or one whose levels are spaced in another way.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    spaced = ("shift_terminal", "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas",
              "use_beta_sigmas")  # fmt: skip
    is_known = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if not is_known or any(scheduler.config.get(name) for name in spaced):
        raise RivalError(
            f"this {type(scheduler).__name__} is not supported: give the checkpoint's as a "
            f"FlowMatchEulerDiscreteScheduler, without {', '.join(spaced)}"
        )
    mu = scheduler.config.max_shift if mu is None else mu
    shift, by_resolution = scheduler.shift, scheduler.config.use_dynamic_shifting

    def level(percent: float) -> float:
        time = 1.0 - percent
        if not 0.0 < time < 1.0:
            return float(time >= 1.0)
        if by_resolution:
            return float(scheduler.time_shift(mu, 1.0, time))
        return shift * time / (1.0 + (shift - 1.0) * time)

    return level


def grid_of(x: Tensor) -> Grid:
    """The height and width in tokens of latents [B, C, H, W]. RivalError for an odd size."""
    height, width = x.shape[2:]
    if height % PATCH or width % PATCH:
        raise RivalError(f"the latent is {width} x {height}: give it an even width and height")
    return height // PATCH, width // PATCH


def packed(x: Tensor) -> Tensor:
    """Latents [B, C, H, W] as tokens [B, n, C * 4], row by row."""
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # [B, C, rows, columns, 2, 2]
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, grid: Grid) -> Tensor:
    """Tokens [B, n, C * 4] as latents [B, C, H, W]."""
    patches = tokens.unflatten(1, grid).unflatten(3, (-1, PATCH, PATCH))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
