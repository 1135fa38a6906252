"""The paper's applications as the official script sets them, for both engines' parity."""

from __future__ import annotations

from dataclasses import dataclass

import official
import torch

SEED = 7


@dataclass(frozen=True)
class Setting:
    """One of the paper's applications, in the official script's numbers."""

    cfg: float
    inverted_with_prompt: bool = False
    early: int = 1000
    align: int = 600
    t_early: int = 600
    start: str = "shuffle"
    control: bool = False  # a ControlNet
    lora: bool = False  # a customised concept: other weights, which invert and sample

    def gates(self) -> dict:
        return {
            "inject_start": 1 - self.early / 1000,
            "replace_end": 1 - self.align / 1000,
            "normalize_end": 1 - self.t_early / 1000,
        }


SETTINGS = {
    "variation": Setting(cfg=5.0),
    "prompt_inverted": Setting(cfg=5.0, inverted_with_prompt=True),
    "text_driven": Setting(cfg=7.0, early=960),
    "editing": Setting(cfg=7.0, early=900, start="inverted"),
    "dreambooth": Setting(cfg=7.0, lora=True),
    "controlnet": Setting(cfg=7.0, t_early=400, control=True),
    "other_gates": Setting(cfg=3.0, align=300, t_early=800, early=850),
}


def official_start(z, start):
    if start == "inverted":
        return z
    permutation = torch.randperm(
        z.shape[2] * z.shape[3], generator=torch.Generator().manual_seed(SEED)
    )
    return official.shuffle(z, permutation)
