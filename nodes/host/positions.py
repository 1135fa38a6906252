"""Where a photo's keys lie among a network's rotary positions, by the network's own embedder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...rival_core.chain.tokens import Tokens
from ...rival_core.steering.exemplar import Exemplar
from ...rival_core.steering.positions import displacements, rotated


@dataclass(frozen=True)
class Rotary:
    """How a network turns queries and keys.

    embedder: the attribute that makes rotations of ids. axes: of the ids that are the image's rows
    and columns. halves: whether number i of a head is turned with number D / 2 + i.
    """

    embedder: str = "pe_embedder"
    axes: tuple[int, int] = (1, 2)
    halves: bool = False

    def rotation(self, network: Any, moves: Tensor, first: float) -> Tensor:
        """[n, P, 2, 2], for moves [n, 2] in tokens (y, x), and along the first axis."""
        embedder = getattr(network, self.embedder)
        ids = moves.new_zeros(1, len(moves), len(embedder.axes_dim))
        ids[..., list(self.axes)] = moves
        ids[..., 0] += first
        return embedder(ids).reshape(len(moves), -1, 2, 2)


@dataclass(frozen=True)
class Target:
    """The rows' own image in one attention call, as far as it tells where a photo should lie.

    grid: its height and width in tokens. place: on the first axis, which may follow the text.
    """

    grid: tuple[int, int]
    place_of_rows: float
    heads: int
    call: Any = field(compare=False)

    def place(self, exemplar: Exemplar, tokens: Tokens) -> Tokens:
        """The photo's tokens, their keys moved to where the exemplar says."""
        port, network = self.call.port, self.call.network
        photo = port.grid(network, exemplar.size)
        key = exemplar.positions, photo, self.place_of_rows - tokens.place
        if key not in self.call.rotations:
            moves = displacements(exemplar.positions, photo, self.grid)
            if moves is None and not key[2]:
                return tokens
            moves = torch.zeros(1, 2) if moves is None else moves
            moves = moves.to(tokens.context.device)
            self.call.rotations[key] = port.rotary.rotation(network, moves, key[2])
        turned = self.call.rotations[key]
        keys = rotated(tokens.context, turned, self.heads, port.rotary.halves)
        return Tokens(keys, tokens.value)
