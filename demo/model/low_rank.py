"""Low-rank changes of a frozen model's layers: what LoRA files hold, and control LoRAs as well."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """weight + up @ down; zero at first, for `up` begins at zero."""

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def attach(model: nn.Module, names: list[str], rank: int) -> None:
    """Give these layers a change to learn. Their own weights, like all others, stay as they are."""
    for name in names:
        layer = model.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def changes(model: nn.Module) -> dict[str, LowRank]:
    """Every change by its layer's name."""
    return {name.removesuffix(".parametrizations.weight.0"): module
            for name, module in model.named_modules() if isinstance(module, LowRank)}
