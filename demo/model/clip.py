"""The demo model's text encoder without a ComfyUI: transformers' CLIP-L with the seeded weights.

A seeded weight depends on nothing but its name and shape, and transformers names CLIP's weights
as ComfyUI does, so these are the tensors that `harness/text_encoders.py` makes, and that the UNet
was trained with.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))

import seeded

SEED = 0
BATCH = 32
SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu",
         "vocab_size": 49408, "max_position_embeddings": 77}


class TextEncoder:
    """Texts of known words to [n, 77, 768]; the empty text is the unconditional one."""

    def __init__(self, device: torch.device | str = "cpu"):
        from transformers import CLIPTextConfig, CLIPTextModel

        self.vocabulary = Vocabulary()
        self.model = CLIPTextModel(CLIPTextConfig(**SIZES)).eval().requires_grad_(False)
        seeded.fill(self._named(), SEED)
        for weight in self.model.state_dict().values():
            weight.copy_(weight.half())  # as a checkpoint keeps them
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.tensor([self.vocabulary.tokens(text) for text in texts])
        parts = tokens.to(self.model.device).split(BATCH)
        return torch.cat([self.model(part).last_hidden_state for part in parts])

    def weights(self) -> dict[str, Tensor]:
        """In half precision, under the names of CLIP's files."""
        return {name: weight.half() for name, weight in self._named().state_dict().items()}

    def _named(self) -> nn.Module:
        """The model whose names begin with `text_model.`, which newer transformers leave out."""
        return nn.ModuleDict({"text_model": getattr(self.model, "text_model", self.model)})
