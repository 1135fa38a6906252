"""Text encoders of full size with random weights, built by the host's own classes.

In half precision, as the families' files have them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import seeded
import torch

CLIP_L, CLIP_G = "sd1_clip_config.json", "clip_config_bigg.json"  # of the host
LAYER_GAIN = 0.25  # of what each layer adds in SDXL's encoders


def sd15(seed: int) -> dict[str, torch.Tensor]:
    """CLIP-L. Its final norm makes the tokens unit noise, as a trained one's."""
    return {name: tensor for name, tensor in _filled(CLIP_L, seed).items()
            if name.startswith("text_model.")}


@torch.no_grad()
def sdxl(seed: int) -> dict[str, torch.Tensor]:
    """CLIP-L and CLIP-G, under the names of SDXL's files.

    SDXL reads hidden states that no norm has seen. Here these are not far from unit noise because
    tokens begin as that and layers add little.
    """
    from comfy.supported_models import SDXL

    both = {"clip_l": _filled(CLIP_L, seed), "clip_g": _filled(CLIP_G, seed)}
    tensors = {f"{encoder}.transformer.{name}": tensor
               for encoder, part in both.items() for name, tensor in part.items()}
    for name, tensor in tensors.items():
        if name.endswith("token_embedding.weight"):
            tensor *= math.sqrt(tensor.shape[1])
        elif name.endswith((".out_proj.weight", ".fc2.weight")):
            tensor *= LAYER_GAIN
    return SDXL({}).process_clip_state_dict_for_saving(tensors)


def build(config_file: str, device: str = "cpu") -> torch.nn.Module:
    import comfy.clip_model
    import comfy.ops

    file = Path(comfy.clip_model.__file__).with_name(config_file)
    config = json.loads(file.read_text(encoding="utf-8"))
    return comfy.clip_model.CLIPTextModel(
        config, torch.float16, device, comfy.ops.disable_weight_init)


def _filled(config_file: str, seed: int) -> dict[str, torch.Tensor]:
    model = build(config_file)
    seeded.fill(model, seed)
    return model.state_dict()
