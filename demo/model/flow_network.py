"""The flow model as the pack's second engine sees it: what a MODEL is to the nodes.

Its attention lends keys and values of image tokens, as Flux's in diffusers does, but it reads the
text apart from the image: no text's keys stand beside the photo's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import in_process
import torch
from flow import beta, shifted
from torch import Tensor, nn
from wan import CHANNELS, PATCH, Wan, turned, turns_at

in_process.register_pack()
from comfyui_rival.rival_core.chain.chain import ModelCard
from comfyui_rival.rival_core.chain.tokens import Layer, Tokens
from comfyui_rival.rival_core.diffusers.flow import grid_of
from comfyui_rival.rival_core.diffusers.joint import Injection, Recorder
from comfyui_rival.rival_core.diffusers.model import Prompt
from comfyui_rival.rival_core.diffusers.port import Hooks
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from comfyui_rival.rival_core.inversion.schedule import FlowTimesteps
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.positions import Grid, displacements
from comfyui_rival.rival_core.steering.step import Step


class FlowNetwork:
    """A trained network and the bend of its noise levels.

    It is copied to the device. dtype: of its products; what lies between them stays float32.
    """

    def __init__(self, network: Wan, dtype: torch.dtype = torch.float32, device: str = "cpu"):
        self.network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        self.dtype, self.device = dtype, torch.device(device)
        self.layers = {(("dit", i), 0): block.self_attn
                       for i, block in enumerate(self.network.blocks)}
        self.timesteps = FlowTimesteps(lambda percent: shifted(1 - percent))
        self.scaling = FlowScaling()
        widths = tuple((*layer, network.width) for layer in self.layers)
        self.card = ModelCard("demo flow", f"{CHANNELS} channels", widths)

    def schedule(self, steps: int) -> Tensor:
        """Of `simple` the last step is too long: at its far end no photo's detail is known."""
        return beta(steps)

    def on_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, torch.float32)

    def denoise(self, x: Tensor, sigma: float, prompts: Sequence[Prompt]) -> list[Tensor]:
        """The denoised estimate of x [B, 16, H, W] under each prompt, in one call."""
        text = torch.cat([prompt.tokens for prompt in prompts]).to(self.device, self.dtype)
        rows = torch.cat([x] * len(prompts))
        levels = torch.full([len(rows)], sigma, device=self.device)
        is_half = self.dtype != torch.float32
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            velocity = self.network(rows, levels, text)
        return [x - sigma * v for v in velocity.float().chunk(len(prompts))]

    def processor(self, layer: Layer, own: Callable[..., Tensor], hooks: Hooks) -> Processor:
        return Processor(layer, own, hooks)

    def recorder(self, rows: Sequence[str], x: Tensor) -> Recorder:
        return Recorder(rows, grid_of(x))

    def injection(self, step: Step, roles: Sequence[str], x: Tensor) -> Injection:
        return Injection(step, roles, Target(grid_of(x)))


class Processor:
    """What stands in for a layer's attention: the same, where no hook acts."""

    def __init__(self, layer: Layer, own: Callable[..., Tensor], hooks: Hooks):
        self.layer, self.own, self.hooks = layer, own, hooks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.hooks.act is None:
            return self.own(q, k, v)
        return self.hooks.act(self.layer, k, v, lambda k, v: self.own(q, k, v))


class Target:
    """The generated images' grid in tokens, and where a photo lies beside them."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.turns: dict[tuple[str, Grid], Tensor | None] = {}

    def place(self, exemplar: Exemplar, tokens: Tokens) -> Tokens:
        """The photo's tokens, their keys moved to where the exemplar says."""
        height, width = exemplar.size
        key = exemplar.positions, (height // PATCH, width // PATCH)
        if key not in self.turns:
            moves = displacements(*key, self.grid)
            self.turns[key] = None if moves is None else turns_at(*moves.T)
        turns = self.turns[key]
        if turns is None:
            return tokens
        return Tokens(turned(tokens.context, turns.to(tokens.context.device)), tokens.value)
