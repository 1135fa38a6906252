"""Captions as the UNet sees them: CLIP-L's shape and tokenizer, weights from a seed.

CLIP itself cannot be shipped and nobody has to download it: the weights are the same seeded noise
that `harness/checkpoints.py` writes, so whoever generates them again gets the encoder that the
UNet was trained with. Needs a ComfyUI on `sys.path` for the architecture and the tokenizer files.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import torch
from scenes import Attributes, all_attributes, caption

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))

SEED = 0
TOKENS = 77
BATCH = 32
HELD_OUT = 10  # every tenth combination, roughly, is never trained on


def trained_attributes(limit: int | None = None) -> list[Attributes]:
    """The combinations to train on, in an order that makes any first part of them varied."""
    chosen = [a for a in all_attributes() if not is_held_out(a)]
    chosen.sort(key=lambda a: zlib.crc32(f"order {caption(a)}".encode()))
    return chosen[:limit]


def is_held_out(attributes: Attributes) -> bool:
    return zlib.crc32(caption(attributes).encode()) % HELD_OUT == 0


class TextEncoder:
    """Captions to [n, 77, 768]; the empty caption is the unconditional one."""

    def __init__(self, device: torch.device):
        import checkpoints
        import comfy.clip_model
        import comfy.ops
        import comfy.sd1_clip

        self.device = device
        self.tokenizer = comfy.sd1_clip.SDTokenizer()
        config_file = Path(comfy.clip_model.__file__).with_name("sd1_clip_config.json")
        config = json.loads(config_file.read_text(encoding="utf-8"))
        weights = {name: tensor.half().float() for name, tensor in checkpoints.clip(SEED).items()}
        self.model = comfy.clip_model.CLIPTextModel(
            config, torch.float32, device, comfy.ops.disable_weight_init)
        self.model.load_state_dict(weights, strict=False)  # lacks the unused text projection
        self.model.eval()

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> torch.Tensor:
        parts = []
        for start in range(0, len(captions), BATCH):
            ids = [[token for token, _ in self.tokenizer.tokenize_with_weights(text)[0]]
                   for text in captions[start:start + BATCH]]
            tokens = torch.tensor(ids, device=self.device)
            parts.append(self.model(tokens)[0].half())
        return torch.cat(parts)
