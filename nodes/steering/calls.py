"""The generated rows' calls: whose prompt each row has, and which part of the image it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...rival_core.errors import RivalError
from ...rival_core.steering.parts import Part, find_part
from ...rival_core.steering.step import Steering
from .. import host
from ..schema import named
from .remarks import NODE

ROWS = "rival_rows"


class Rows(NamedTuple):
    """What the rows of one model call are, where they are not simply those of the guider.

    size: of the latent that the model is shown. roles, parts: of each row; None where the host's
    own order tells the roles, and where the rows are no parts.
    """

    size: tuple[int, int]
    roles: list[str] | None
    parts: list[Part] | None


class CallWatch:
    """A wrapper around a guider's model calls, which finds out what their rows are.

    A node between the guider and the model may have cut the latent into tiles, in an order of its
    own: a row is known by its text, and by where its numbers are in the whole latent.
    """

    def __init__(
        self,
        roles: dict[Any, str],
        conds: Sequence,
        x: Tensor,
        whole: Tensor,
        steering: Steering,
    ):
        """x: the rows of one prompt, as they left the guider; whole: what it predicts for."""
        self.roles, self.x, self.whole = roles, x, whole
        self.entries = [entry for cond in conds for entry in cond or []]
        present = {roles[entry["uuid"]] for entry in self.entries}
        self.needs_roles = len(present) > 1 and any(c.has_two_rows for c in steering.chains)
        self.needs_parts = any(e.mask is not None for e in steering.readers)

    @property
    def is_needed(self) -> bool:
        """Whether it matters what the rows are."""
        return self.needs_roles or self.needs_parts

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                 transformer_options={}, **kwargs):
        size, uuids = tuple(x.shape[2:]), transformer_options["uuids"]
        as_told = size == tuple(self.x.shape[2:]) and len(x) == len(uuids) * len(self.x)
        as_told = as_told or len({self.roles[row] for row in uuids}) == 1
        roles = parts = None
        with named(NODE):
            if self.needs_roles and not as_told:
                roles = self.roles_of(x, c_crossattn)
            if self.needs_parts and size != tuple(self.whole.shape[2:]):
                parts = self.parts_of(x)
        told = {**transformer_options, ROWS: Rows(size, roles, parts)}
        return executor(x, t, c_concat, c_crossattn, control, told, **kwargs)

    def knows(self, rows: Rows | None, extra_options: dict) -> bool:
        """Whether a layer is shown what this wrapper saw, or the guider's rows just as they are."""
        count, _, *size = extra_options["original_shape"]
        if rows is not None:
            return tuple(size) == rows.size
        told = len(extra_options["uuids"]) * len(self.x)
        return count == told and tuple(size) == tuple(self.whole.shape[2:])

    def roles_of(self, x: Tensor, texts: Tensor | None) -> list[str]:
        found = [] if texts is None else [self.role_of(text) for text in texts]
        if len(found) != len(x) or None in found:
            raise RivalError(
                "another node cuts the latent into pieces that do not tell which prompt they are "
                "for, and the photo was inverted with a negative: remove that node, or invert "
                "without the negative"
            )
        return found

    def role_of(self, text: Tensor) -> str | None:
        """Of a row with this encoded text [T, C], which the host may have repeated."""
        texts = ((host.encoded_text(entry), entry["uuid"]) for entry in self.entries)
        found = {row for own, row in texts if own is not None and is_repeated(own[0], text)}
        roles = {self.roles[row] for row in found}
        return roles.pop() if len(roles) == 1 else None

    def parts_of(self, x: Tensor) -> list[Part]:
        parts = [find_part(piece, self.whole) for piece in x]
        if None in parts:
            raise RivalError(
                f"another node shows the model a latent of {tuple(x.shape[2:])} that is no part of "
                f"the image's {tuple(self.whole.shape[2:])}: remove that node, or the mask"
            )
        return parts


def is_repeated(text: Tensor, longer: Tensor) -> bool:
    """Whether one encoded text [T, C] is another one, some times over."""
    times, rest = divmod(len(longer), len(text))
    same = rest == 0 and text.shape[1] == longer.shape[1]
    return same and torch.equal(text.to(longer).repeat(times, 1), longer)
