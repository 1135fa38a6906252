"""The generated rows' calls: what each row's self-attention reads of the photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...rival_core.chain.tokens import Layer
from ...rival_core.errors import RivalError
from ...rival_core.steering.attention import blended_attention, lengthen
from ...rival_core.steering.parts import Part, find_part
from ...rival_core.steering.step import Steering, Step
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


class Injection:
    """An attn1 patch for the generated rows, and the attn1 replaces of a fractional strength."""

    def __init__(
        self,
        step: Step,
        roles: dict[Any, str],
        taken: Iterable[tuple],
        watch: CallWatch | None = None,
    ):
        """watch: of the calls, where it is needed."""
        self.step = step
        self.roles = roles
        self.taken = set(taken)
        self.watch = watch

    @host.untraced
    def __call__(self, n, context, value, extra_options):
        layer = (extra_options["block"], extra_options["block_index"])
        steering = self.step.steering.at(layer)
        if self.is_taken(layer) or not steering.readers:
            return n, context, value
        with named(NODE):
            chunks = [self.step.read(layer, role) for role in self.roles_in(extra_options)]
        own_is_one = value is context
        if len(n) != len(context):
            # HyperTile cut the queries into tiles; ComfyUI then reads keys in that many chunks.
            context, value = (t.reshape(len(n), -1, t.shape[-1]) for t in (context, value))
        rows = len(n) // len(chunks)
        replace = steering.replace and not steering.blends
        longer = lengthen(context, [c.context for c in chunks], rows, replace)
        if own_is_one and all(c.value is c.context for c in chunks):
            return n, longer, longer
        return n, longer, lengthen(value, [c.value for c in chunks], rows, replace)

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

    def is_taken(self, layer: Layer) -> bool:
        """Whether another node computes this layer's self-attention in this call."""
        block, depth = layer
        return (*block, depth) in self.taken or block in self.taken

    def replaces(self) -> dict[tuple, Any]:
        """Attention functions that blend plain with injected, for the layers that need them."""
        if not any(e.strength < 1 or e.mask is not None for e in self.step.steering.readers):
            return {}
        layers = set().union(*self.step.tokens.values())
        free = [layer for layer in layers if not self.is_taken(layer) and self.is_blended(layer)]
        return {(*block, depth): self.blend for block, depth in free}

    def is_blended(self, layer: Layer) -> bool:
        steering = self.step.steering.at(layer)
        return bool(steering.readers) and steering.blends

    @host.untraced
    def blend(self, q, k, v, extra_options, mask=None):
        layer = (extra_options["block"], extra_options["block_index"])
        steering = self.step.steering.at(layer)
        attention = partial(host.attention, extra_options=extra_options)
        with named(NODE):
            role = self.roles_in(extra_options)[0]
            length = self.step.read(layer, role).context.shape[1]
            share, allowed = self.shares(layer, q, extra_options)
        return blended_attention(attention, q, k, v, length, steering.replace, share, allowed)

    def shares(self, layer: Layer, q: Tensor, extra_options: dict):
        rows = extra_options.get(ROWS)
        like = q.new_empty(1, 1, *extra_options["original_shape"][2:])
        if rows is None or rows.parts is None:
            return self.step.shares(layer, q.shape[1], like)
        return self.step.shares_of_parts(layer, q.shape[1], like, rows.parts)
