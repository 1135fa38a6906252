"""What the exemplar's self-attention reads, taken down while the model runs."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from ...rival_core.chain.tokens import Layer, Tokens
from .. import host


class Recorder:
    """An attn1 patch for the exemplar's own calls: keeps what self-attention read in the last.

    roles:  of the calls' rows, by their uuids.
    layers: in which it is kept.
    stops:  whether a call ends where all of it is known.
    """

    def __init__(self, roles: dict[Any, str], layers: Set[Layer], stops: bool = False):
        self.roles = roles
        self.layers = layers
        self.stops = stops
        self.tokens: dict[str, dict[Layer, Tokens]] = {role: {} for role in roles.values()}

    @host.untraced
    def __call__(self, n, context, value, extra_options):
        layer = (extra_options["block"], extra_options["block_index"])
        rows = extra_options["uuids"] if layer in self.layers else ()
        for i, row in enumerate(rows):
            kept = context[i : i + 1]
            tokens = Tokens(kept, kept if value is context else value[i : i + 1])
            self.tokens[self.roles[row]][layer] = tokens
        if self.stops and all(self.layers <= kept.keys() for kept in self.tokens.values()):
            raise host.Enough
        return n, context, value
