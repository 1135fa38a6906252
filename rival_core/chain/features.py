"""What a chain's exemplar gave at the chain's own sigmas, kept for later runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import RivalError
from .tokens import Layer, Tokens

FEATURES = ("live", "cached", "cached_int8")
GB = 1e9

Packed = tuple[Tensor, ...]  # numbers as they are, or int8 and each token's scale
Kept = tuple[Packed, ...]  # of a layer: what keys are made from, and values if from something else
Place = tuple[int, str]  # a step of the chain, and the exemplar row of a role


def pack(context: Tensor, features: str) -> Packed:
    """What is read [1, ..., L, C] as it is stored: exactly, or int8 with a scale per token."""
    if context.untyped_storage().nbytes() > context.nbytes:
        context = context.clone()  # a view would keep the whole batch
    context = context.detach()
    if features != "cached_int8":
        return (context,)
    scale = context.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / 127
    return (context.float() / scale).round().to(torch.int8), scale.to(context)


def pack_tokens(tokens: Mapping[Layer, Tokens], features: str) -> Stored:
    """What one exemplar row's layers saw, as it is stored."""
    kept = {
        layer: tuple(pack(part, features) for part in seen.parts) for layer, seen in tokens.items()
    }
    return Stored(kept, place=max((seen.place for seen in tokens.values()), default=0.0))


def unpack_tokens(stored: Stored) -> dict[Layer, Tokens]:
    """What a row's layers saw; exactly that, unless it was packed as int8."""
    found = {}
    for layer, kept in stored.tokens.items():
        context, *value = map(unpack, kept)
        found[layer] = Tokens(context, value[0] if value else context, stored.place)
    return found


def unpack(packed: Packed) -> Tensor:
    if len(packed) == 1:
        return packed[0]
    whole, scale = packed
    return whole * scale


def choose_place(
    size: int, room: Sequence[tuple[torch.device, int]], features: str, advice: str
) -> torch.device:
    """The first of (device, free bytes) with room for so many bytes; RivalError if none has.

    advice: what to choose then, instead.
    """
    for device, free in room:
        if size <= free:
            return device
    free = ", ".join(f"{max(0, free) / GB:.1f} GB on {device}" for device, free in room)
    raise RivalError(
        f"features is {features!r}, which would keep {size / GB:.1f} GB, and there is room for "
        f"{free}: choose {advice}, fewer steps, or features live"
    )


class Stored(NamedTuple):
    """One exemplar row at one step."""

    tokens: Mapping[Layer, Kept]
    eps: Tensor | None = None  # [1, C, H, W], its predicted noise, if it is known
    place: float = 0.0  # see Tokens

    def on(self, device: torch.device) -> Stored:
        """The same on a device. A copy from pinned memory does not wait for itself."""
        return self.each(lambda t: t.to(device, non_blocking=t.is_pinned()))

    def kept_on(self, device: torch.device) -> Stored:
        """The same where it is kept: what leaves a GPU is pinned, to come back beside its work."""

        def kept(t: Tensor) -> Tensor:
            leaves = t.device.type == "cuda" and device.type == "cpu"
            return t.to(device).pin_memory() if leaves else t.to(device)

        return self.each(kept)

    def each(self, moved: Callable[[Tensor], Tensor]) -> Stored:
        tokens = {layer: tuple(tuple(map(moved, packed)) for packed in kept)
                  for layer, kept in self.tokens.items()}  # fmt: skip
        return Stored(tokens, None if self.eps is None else moved(self.eps), self.place)

    def tensors(self) -> list[Tensor]:
        eps = [] if self.eps is None else [self.eps]
        return [t for kept in self.tokens.values() for packed in kept for t in packed] + eps

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors())


class FeatureCache:
    """Hangs on a Chain and dies with it. Holds what one model made of it, in whole rows."""

    def __init__(self):
        self.key: tuple[str, Any] | None = None  # how it is packed, and what made it
        self.rows: dict[Place, Stored] = {}

    def claim(self, features: str, maker: Any) -> None:
        """Empties it, unless all it holds was packed so and made by this."""
        if self.key != (features, maker):
            self.key = (features, maker)
            self.rows.clear()

    @property
    def kept_as(self) -> str | None:
        """Which of FEATURES it holds, if anything."""
        return self.key[0] if self.key and self.rows else None

    def find(self, place: Place, layers: Set[Layer], needs_eps: bool) -> Stored | None:
        """The row at a place, if it has these layers and, where needed, the predicted noise."""
        row = self.rows.get(place)
        if row is None or not layers <= row.tokens.keys() or (needs_eps and row.eps is None):
            return None
        return row

    def move(self, device: torch.device) -> None:
        self.rows = {place: row.kept_on(device) for place, row in self.rows.items()}

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows.values())


class Prefetch:
    """Brings stored rows to the sampling device, the next step's while this one still runs."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.coming: dict[int, tuple[Stored, Stored]] = {}  # by the source's id, and that source

    def take(self, row: Stored) -> Stored:
        """The row on the device. What is queued there next waits for a copy under way."""
        if id(row) not in self.coming:
            return row.on(self.device)
        _, here = self.coming.pop(id(row))
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self.stream)
        for t in here.tensors():
            t.record_stream(stream)  # they were allocated on the other
        return here

    def start(self, rows: Iterable[Stored]) -> None:
        """Begins to copy these rows; forgets those that nobody took."""
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                self.coming = {id(row): (row, row.on(self.device)) for row in rows}
