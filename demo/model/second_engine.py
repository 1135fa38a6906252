"""The demo's two models as the pack's second engine runs them, without a ComfyUI.

A model gives its network for `rival_core.diffusers.engine`, its autoencoder (RGB in 0..1 to what
the network sees, and back), and its prompts; `gates` are RIVAL's that suit it, beside the defaults.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import assemble
import export
import flow
import flow_data
import flow_file
import flow_network
import in_process
import torch
from autoencoder import Autoencoder
from clip import TextEncoder
from torch import nn

in_process.register_pack()
from comfyui_rival.rival_core.diffusers import model as diffusers_model
from comfyui_rival.rival_core.diffusers.model import Prompt


class UNetModel:
    """SD1.5's family: 18.7 M parameters."""

    gates: ClassVar[dict] = {}

    def __init__(self, folder: Path = assemble.WEIGHTS):
        assemble.parts(folder)
        self.tensors = export.read(folder)

    def network(self, dtype: torch.dtype = torch.float32, device: str = "cpu"):
        from diffusers.utils import logging

        logging.set_verbosity_error()  # it warns that a cast may be a mistake
        unet = {name: w.float() for name, w in self.tensors.items()
                if name.startswith(export.UNET_PREFIX)}
        unet = diffusers_model.to_diffusers(unet)
        return diffusers_model.Model(
            unet.to(device, dtype, memory_format=torch.channels_last))

    def autoencoder(self) -> Autoencoder:
        return export.load_autoencoder(self.tensors)

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        return [Prompt(tokens[None]) for tokens in text_encoder()(list(texts))]


class FlowModel:
    """Wan's family: 14.7 M parameters."""

    gates: ClassVar[dict] = flow.GATES

    def __init__(self, folder: Path = assemble.WEIGHTS):
        assemble.flow_parts(folder)
        self.folder = folder

    def network(self, dtype: torch.dtype = torch.float32, device: str = "cpu"):
        trained = flow_file.network_of(flow_file.read_parts(self.folder))
        return flow_network.FlowNetwork(trained, dtype, device)

    def autoencoder(self) -> Autoencoder:
        return flow_file.read_autoencoder(self.folder)

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        return [Prompt(tokens[None]) for tokens in flow_data.embed(text_encoder(), list(texts))]


MODELS = {"unet": UNetModel, "flow": FlowModel}


@functools.cache
def text_encoder() -> TextEncoder:
    return TextEncoder()


def digest(module: nn.Module) -> str:
    """Of a module's weights, to name what was made for them."""
    weights = b"".join(w.numpy().tobytes() for w in module.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:12]
