"""What an exemplar's self-attention reads in each layer: taken down, chosen from, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Layer = tuple[tuple[str, int], int]  # (block, depth in the block), as the host names them


class Tokens(NamedTuple):
    """One exemplar row's normed hidden states at one layer, each [1, L, C]."""

    context: Tensor  # what keys are made from
    value: Tensor  # what values are made from: the same tensor, unless a patch parted them


def select(tokens: Tokens, index: Tensor) -> Tokens:
    """Some of an exemplar's tokens, by their numbers [n]."""
    index = index.to(tokens.context.device)
    context = tokens.context[:, index]
    if tokens.value is tokens.context:
        return Tokens(context, context)
    return Tokens(context, tokens.value[:, index])


def join(parts: Sequence[Tokens]) -> Tokens:
    """Several exemplars' tokens side by side."""
    if len(parts) == 1:
        return parts[0]
    context = torch.cat([p.context for p in parts], dim=1)
    if all(p.value is p.context for p in parts):
        return Tokens(context, context)
    return Tokens(context, torch.cat([p.value for p in parts], dim=1))
