"""What an exemplar's self-attention reads in each layer: taken down, chosen from, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Layer = tuple[tuple[str, int], int]  # (block, depth in the block), as the host names them


class Tokens(NamedTuple):
    """What one exemplar row's self-attention read at one layer, the tokens last but one.

    On UNets normed hidden states, [1, L, C]; on DiTs the image's keys and values themselves,
    [1, L, C] or [1, H, L, D].
    """

    context: Tensor  # what keys are made from
    value: Tensor  # what values are made from: on UNets the same tensor, unless a patch parted them
    place: float = 0.0  # of the image on a position axis that follows the text's length

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The one tensor that both are, or the two."""
        return (self.context,) if self.value is self.context else (self.context, self.value)

    @property
    def count(self) -> int:
        return self.context.shape[-2]


def select(tokens: Tokens, index: Tensor) -> Tokens:
    """Some of an exemplar's tokens, by their numbers [n]."""
    index = index.to(tokens.context.device)
    context = tokens.context[..., index, :]
    if tokens.value is tokens.context:
        return Tokens(context, context)
    return Tokens(context, tokens.value[..., index, :])


def join(parts: Sequence[Tokens]) -> Tokens:
    """Several exemplars' tokens side by side."""
    if len(parts) == 1:
        return parts[0]
    context = torch.cat([p.context for p in parts], dim=-2)
    if all(p.value is p.context for p in parts):
        return Tokens(context, context)
    return Tokens(context, torch.cat([p.value for p in parts], dim=-2))
