"""A ControlNet on edges for the demo model, as small as core's format for control LoRAs allows.

It is a copy of the UNet's input block with low-rank changes, a hint encoder, a residual block and
zero convolutions. The file holds all but the copied weights (Stability's control LoRA format).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from latents import LatentBatches
from low_rank import attach, changes
from render import render
from scenes import Scene
from torch import nn
from unet import CONFIG, start

RANK = 16
THRESHOLDS = 0.3, 0.6  # of the template's Canny node
LIGHT, DARK = (0.96,) * 3, (0.12,) * 3
EDGES_AT_ONCE = 32
OWN = ("input_hint_block.", "middle_block.", "zero_convs.", "middle_block_out.")
CHANGED = (".in_layers.2", ".out_layers.3", ".to_q", ".to_k", ".to_v", ".to_out.0",
           ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")


def make_controlnet(unet: nn.Module, **changed) -> nn.Module:
    """The host's class, with the UNet's input block for a start; silent until it has learnt."""
    from comfy.cldm.cldm import ControlNet

    config = {name: value for name, value in (CONFIG | changed).items() if name != "out_channels"}
    model = ControlNet(**config, hint_channels=3)
    start(model)
    model.load_state_dict(unet.state_dict(), strict=False)
    for layer in (*model.zero_convs, model.middle_block_out):
        nn.init.zeros_(layer[0].weight)
        nn.init.zeros_(layer[0].bias)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(OWN))
    attach(model, [name for name, _ in model.input_blocks.named_modules(prefix="input_blocks")
                   if name.endswith(CHANGED)], RANK)
    return model


class Controlled(nn.Module):
    """A UNet that reads a ControlNet's residuals for its hints, called as a plain one."""

    def __init__(self, unet: nn.Module, controlnet: nn.Module, hints: torch.Tensor):
        super().__init__()
        self.unet, self.controlnet, self.hints = unet, controlnet, hints

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor,
                context: torch.Tensor) -> torch.Tensor:
        hints = self.hints.repeat(len(x) // len(self.hints), 1, 1, 1)
        control = self.controlnet(x, hints, timesteps, context)
        return self.unet(x, timesteps, context=context, control=control)


def edges(images: torch.Tensor) -> torch.Tensor:
    """Core's Canny node on [n, 3, h, w] in 0..1; gives the same shape, 0 or 1."""
    from comfy_extras.nodes_canny import Canny

    parts = [Canny.execute(part.movedim(1, -1), *THRESHOLDS)[0].movedim(-1, 1)
             for part in images.split(EDGES_AT_ONCE)]
    return torch.cat(parts)


def outlines(scenes: list[Scene], device: torch.device | str = "cpu") -> torch.Tensor:
    """The edges of the scenes' layouts in another look, so that they say nothing about the style.

    That look is plain black and white, one on the other by turns: Canny does not see colours of
    equal brightness, and it sees a texture's edges as well as the shapes'.
    """
    return edges(render([_black_and_white(scene) for scene in scenes], device))


def _black_and_white(scene: Scene) -> Scene:
    color, background = (LIGHT, DARK) if scene.seed % 2 else (DARK, LIGHT)
    return replace(scene, attributes=replace(scene.attributes, texture="plain"),
                   style=replace(scene.style, color=color, background=background))


class OutlineBatches(LatentBatches):
    """Latents, captions and the outlines of their layouts."""

    empty_share = 0.3  # so that the layout is read off the hint, not off the caption

    def _draw(self, round_now: int) -> None:
        super()._draw(round_now)
        self.hints = outlines(self.scenes, self.device).bool()

    def hinted(self, samples: int, size: int):
        """`at`, and the hints [n, 3, h, w] beside."""
        batch = self.at(samples, size)
        return batch, self.hints[self.rows.to(self.device)].float()


def tensors(controlnet: nn.Module) -> dict[str, torch.Tensor]:
    """As core's ControlNetLoader takes it, in half precision."""
    found = {name: tensor for name, tensor in controlnet.state_dict().items()
             if name.startswith(OWN)}
    for name, change in changes(controlnet).items():
        found |= {f"{name}.up": change.up, f"{name}.down": change.down}
    found = {name: tensor.detach().half().contiguous() for name, tensor in found.items()}
    return found | {"lora_controlnet": torch.tensor([])}
