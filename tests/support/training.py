"""What tests of training share: a UNet of few channels, a chunk without an end, a few captions."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import train
from split import trained_attributes

CPU = torch.device("cpu")
NEVER = train.Deadline(math.inf)
TINY = {"model_channels": 32, "num_heads": 2}


class FewCaptions:
    """Stands in for the text encoder, which takes seconds to make."""

    def __init__(self):
        self.attributes = trained_attributes(6)
        self.embedded = torch.randn(7, 77, 768, generator=torch.Generator().manual_seed(0)).half()
