"""The stand-in checkpoints' UNets: interfaces of trained families in few, narrow levels.

Their weights are described in seeded.py.
"""

from __future__ import annotations

import math

import seeded
import torch

COPIED = 0.9  # more than seeded.py's, so that a guidance of 5 ends at latents near unit variance
COMMON = {
    "image_size": 32, "use_spatial_transformer": True, "legacy": False,
    "in_channels": 4, "out_channels": 4, "model_channels": 320,
}
SD15 = {  # the lower level has attention in an input block, the middle and two output blocks
    **COMMON, "channel_mult": [1, 1], "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1, "use_linear_in_transformer": False, "context_dim": 768,
    "num_heads": 8, "num_head_channels": -1,
}
SDXL = {  # ComfyUI knows the family by the depths of its input blocks, not of the others
    **COMMON, "channel_mult": [1, 1, 1], "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_linear_in_transformer": True, "context_dim": 2048,
    "num_classes": "sequential", "adm_in_channels": 2816,
    "num_heads": -1, "num_head_channels": 64,
}


def build(config: dict, device: str = "cpu") -> torch.nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**config, device=device).eval()


@torch.no_grad()
def seeded_unet(config: dict, seed: int) -> dict[str, torch.Tensor]:
    """A UNet whose noise prediction for unit noise has a deviation near 1."""
    network = build(config)
    seeded.fill(network, seed)
    seeded.copy_input(network, share=0.0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    given = {"context": torch.randn(1, 77, config["context_dim"], generator=generator)}
    if "adm_in_channels" in config:
        given["y"] = torch.randn(1, config["adm_in_channels"], generator=generator)
    deviation = network(noise, torch.tensor([500.0]), **given).std().item()
    seeded.normalize_output(network.out[2], deviation, math.sqrt(1 - COPIED**2))
    seeded.copy_input(network, COPIED)
    return network.state_dict()
