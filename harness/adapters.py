"""Small seeded files that are loaded beside the SD1.5 stand-in: a LoRA and a ControlNet.

Nobody trained these either. They change an image visibly and leave it an image.
"""

from __future__ import annotations

import math

import seeded
import text_encoders
import torch
import unets

RANK = 4
CHANGE = 0.5  # a LoRA's part of the weights' own deviation
UNET_LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")
TEXT_LAYERS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")
HINT_GAIN = 0.25  # of the ControlNet's residuals


def lora(seed: int) -> dict[str, torch.Tensor]:
    """Low-rank changes of all attention and feed-forward layers, of UNet and text encoder."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, (rows, columns) in _lora_layers().items():
        up = torch.randn(rows, RANK, generator=generator)
        down = torch.randn(RANK, columns, generator=generator)
        tensors[f"{name}.lora_up.weight"] = up / math.sqrt(RANK)
        tensors[f"{name}.lora_down.weight"] = down / math.sqrt(columns)
        tensors[f"{name}.alpha"] = torch.tensor(RANK * CHANGE)
    return tensors


def _lora_layers() -> dict[str, torch.Size]:
    """The changed layers' shapes, under the names of LoRA files."""
    networks = (("lora_unet_", unets.build(unets.SD15, "meta"), UNET_LAYERS),
                ("lora_te_", text_encoders.build(text_encoders.CLIP_L, "meta"), TEXT_LAYERS))
    return {prefix + name.replace(".", "_"): layer.weight.shape
            for prefix, network, changed in networks
            for name, layer in network.named_modules() if name.endswith(changed)}


@torch.no_grad()
def controlnet(seed: int) -> dict[str, torch.Tensor]:
    """For pictures as hints; its residuals are weaker than what they are added to."""
    import comfy.cldm.cldm
    import comfy.ops

    config = {name: value for name, value in unets.SD15.items() if name != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    seeded.fill(network, seed)
    for layer in (*network.zero_convs, network.middle_block_out):
        for parameter in layer.parameters():
            parameter *= HINT_GAIN
    return network.state_dict()
