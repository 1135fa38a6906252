"""Where a photo's keys lie among a network's rotary positions, by the network's own rotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ...rival_core.chain.tokens import Tokens
from ...rival_core.steering.exemplar import Exemplar
from ...rival_core.steering.positions import displacements, rotated


@dataclass(frozen=True)
class Rotary:
    """How a network turns queries and keys.

    rotation: (the network, ids [1, n, axes]) -> [..., n, ..., P, 2, 2], as the network itself does.
    axes: how many an id has: the image's rows and columns are second and third, or all there are.
    halves: whether number i of a head is turned with number D / 2 + i. follow: the axes on which
    the image's place follows the text's length, where it does.
    """

    rotation: Callable[[Any, Tensor], Tensor]
    axes: Callable[[Any], int] = lambda network: 3
    halves: bool = False
    follow: tuple[int, ...] = (0,)

    def of(self, network: Any, moves: Tensor, place: float) -> Tensor:
        """[n, P, 2, 2], for moves [n, 2] in tokens (y, x), and as the text moves the image."""
        ids = moves.new_zeros(1, len(moves), max(3, self.axes(network)))
        ids[..., 1:3] = moves
        ids[..., list(self.follow)] += place
        ids = ids if self.axes(network) > 2 else ids[..., 1:]
        return self.rotation(network, ids).reshape(len(moves), -1, 2, 2)


def by_embedder(attribute: str, **more) -> Rotary:
    """Rotary positions of a network that keeps a module which makes rotations of ids."""
    found = attrgetter(attribute)
    return Rotary(lambda network, ids: found(network)(ids),
                  lambda network: len(found(network).axes_dim), **more)


def by_angles(angles: Tensor) -> Tensor:
    """The rotations [..., 2, 2] by so many radians."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


@dataclass(frozen=True)
class Target:
    """The rows' own image in one attention call, as far as it tells where a photo should lie.

    grid: its height and width in tokens, spacing: how far these are apart (y, x). place_of_rows:
    where their text's length puts them.
    """

    grid: tuple[int, int]
    spacing: tuple[float, float]
    place_of_rows: float
    heads: int
    call: Any = field(compare=False)

    def place(self, exemplar: Exemplar, tokens: Tokens) -> Tokens:
        """The photo's tokens, their keys moved to where the exemplar says."""
        port, network = self.call.port, self.call.network
        photo = port.grid(network, exemplar.size)
        key = exemplar.positions, photo, self.spacing, self.place_of_rows - tokens.place
        if key not in self.call.rotations:
            moves = displacements(exemplar.positions, photo, self.grid)
            if moves is None and not key[-1]:
                return tokens
            moves = torch.zeros(1, 2) if moves is None else moves
            moves = (moves * torch.tensor(self.spacing)).to(tokens.context.device)
            self.call.rotations[key] = port.rotary.of(network, moves, key[-1])
        turned = self.call.rotations[key]
        keys = rotated(tokens.context, turned, self.heads, port.rotary.halves)
        return Tokens(keys, tokens.value)
