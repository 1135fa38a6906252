"""Where lent keys lie for a network with rotary positions.

Rotary embeddings make keys at a query's own place attract it most, so that keys lent as they are
bring the photo's layout along. Keys come rotated by R(p); since rotations add up, R(q - p) moves
them to q (the group property that every rotary embedding has).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..values import choice

POSITIONS = ("beside", "shuffled", "same")
Grid = tuple[int, int]  # an image's height and width in tokens


def displacements(positions: str, photo: Grid, target: Grid) -> Tensor | None:
    """By how many tokens (y, x) each of a photo's keys moves: [1 or L, 2], or None if they stay.

    beside: to the right of the target. shuffled: each to another's place, by one permutation for
    each size. same: nowhere.
    """
    choice("positions", positions, POSITIONS)
    if positions == "same":
        return None
    if positions == "beside":
        return torch.tensor([[0.0, float(target[1])]])
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in photo), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1).float()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    return places[order] - places


def rotated(keys: Tensor, rotation: Tensor, heads: int, halves: bool = False) -> Tensor:
    """Keys [..., H, L, D] or [B, L, H * D], turned by rotation [1 or L, P, 2, 2].

    The first 2 P numbers of a head are turned: pairs of neighbours, or with `halves` number i and
    number P + i.
    """
    split = keys if keys.ndim > 3 else keys.unflatten(-1, (heads, -1)).transpose(1, 2)
    pairs = rotation.shape[1]
    turned, rest = split[..., : 2 * pairs].to(rotation), split[..., 2 * pairs :]
    first, second = pairs_of(turned, halves)
    r = rotation
    first, second = (
        r[..., 0, 0] * first + r[..., 0, 1] * second,
        r[..., 1, 0] * first + r[..., 1, 1] * second,
    )
    joined = torch.stack([first, second], dim=-2 if halves else -1).flatten(-2)
    split = torch.cat([joined.to(keys), rest], dim=-1)
    return split if keys.ndim > 3 else split.transpose(1, 2).flatten(-2)


def pairs_of(x: Tensor, halves: bool) -> tuple[Tensor, Tensor]:
    """The two numbers of every pair, each [..., P]."""
    return x.chunk(2, dim=-1) if halves else x.unflatten(-1, (-1, 2)).unbind(-1)
