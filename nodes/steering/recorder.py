"""What the exemplar's self-attention reads, taken down while the model runs."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from torch import Tensor

from ...rival_core.chain.tokens import Layer, Tokens
from .. import host


class Recorder:
    """Keeps what self-attention read in the last of the exemplar's own calls.

    roles:  of the calls' rows, by their uuids.
    layers: in which it is kept.
    stops:  whether a call ends where all of it is known.
    """

    def __init__(self, roles: dict[Any, str], layers: Set[Layer], stops: bool = False):
        self.roles = roles
        self.layers = layers
        self.stops = stops
        self.tokens: dict[str, dict[Layer, Tokens]] = {role: {} for role in roles.values()}

    def unread(self) -> None:
        """A call in which no attention was seen; Step.read says which layers are missed."""

    def wants(self, layer: Layer) -> bool:
        return layer in self.layers

    def keep(
        self, layer: Layer, rows: Sequence, context: Tensor, value: Tensor, place: float = 0.0
    ) -> None:
        """What a layer's keys, and its values, are made from in a call of these rows."""
        for i, row in enumerate(rows):
            kept = context[i : i + 1]
            tokens = Tokens(kept, kept if value is context else value[i : i + 1], place)
            self.tokens[self.roles[row]][layer] = tokens

    def end_if_done(self) -> None:
        """Raises what ends the call, if nothing more is wanted of it."""
        if self.stops and all(self.layers <= kept.keys() for kept in self.tokens.values()):
            raise host.Enough
