"""What each generated row's self-attention reads of the photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...rival_core.chain.tokens import Layer, Tokens
from ...rival_core.errors import RivalError
from ...rival_core.steering.step import Steering, Step, Target
from ..schema import named
from .calls import ROWS, CallWatch
from .remarks import NODE


class Reader:
    """What the rows of a step's calls read, as the model's own port asks for it.

    watch: of the calls, where it is needed to tell their rows. unread: is told of a call in which
    no attention was seen.
    """

    def __init__(
        self,
        step: Step,
        roles: dict[Any, str],
        watch: CallWatch | None = None,
        unread: Callable[[], None] = lambda: None,
    ):
        self.unread = unread
        self.step = step
        self.roles = roles
        self.watch = watch

    def at(self, layer: Layer) -> Steering:
        """What acts in a layer."""
        return self.step.steering.at(layer)

    def read(
        self, layer: Layer, extra_options: dict, targets: Sequence[Target | None] = (None,)
    ) -> list[Tokens]:
        """The photos' tokens for each of a call's rows, or chunks of rows, each once.

        targets: see Step.read; one for all, or one for each.
        """
        found: dict[tuple, Tokens] = {}
        with named(NODE):
            roles = self.roles_in(extra_options)
            asked = list(zip(roles, targets if len(targets) > 1 else [*targets] * len(roles)))
            keys = [(self.step.rows_for(layer, role), target) for role, target in asked]
            for key, (role, target) in zip(keys, asked):
                if key not in found:
                    found[key] = self.step.read(layer, role, target)
        return [found[key] for key in keys]

    def lengths(self, layer: Layer) -> list[int]:
        """How many tokens each of a layer's photos gives, in the order of `read`."""
        return self.step.lengths[layer]

    def roles_in(self, extra_options: dict) -> list[str]:
        """The roles of a call's rows, or of its chunks of rows."""
        rows = extra_options.get(ROWS)
        if self.watch is not None and not self.watch.knows(rows, extra_options):
            raise RivalError(
                "another node cuts the latent into pieces inside the model, where nothing tells "
                "them apart: remove that node, or the mask and the negative of RIVAL Invert"
            )
        if rows is not None and rows.roles is not None:
            return rows.roles
        return [self.roles.get(row, "positive") for row in extra_options["uuids"]]

    def blended_layers(self) -> list[Layer]:
        """The layers in which plain attention has a share beside the injected one."""
        if not any(e.strength < 1 or e.mask is not None for e in self.step.steering.readers):
            return []
        layers = set().union(*self.step.tokens.values())
        return [layer for layer in layers if self.is_blended(layer)]

    def is_blended(self, layer: Layer) -> bool:
        steering = self.at(layer)
        return bool(steering.readers) and steering.blends

    def shares(
        self, layer: Layer, queries: int, like: Tensor, extra_options: dict
    ) -> tuple[float | Tensor, Tensor | None]:
        """Step.shares for the queries of a call's rows."""
        rows = extra_options.get(ROWS)
        like = like.new_empty(1, 1, *extra_options["original_shape"][2:])
        with named(NODE):
            if rows is None or rows.parts is None:
                return self.step.shares(layer, queries, like)
            return self.step.shares_of_parts(layer, queries, like, rows.parts)
