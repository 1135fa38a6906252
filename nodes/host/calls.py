"""Which of a model's attention calls is which: they are counted, one model call at a time.

Newer hosts name the block in some networks, and then the count follows. A node may replace blocks,
skip them, or attend to something of its own beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...rival_core.chain.tokens import Layer
from ...rival_core.errors import RivalError
from .apart import EXPECTED
from .positions import Target

CALL = "rival_call"
Block = tuple[tuple[str, int] | None, tuple[bool, ...]]  # its name in patches_replace; its calls


class Call:
    """One model call while it runs: what its attention calls are told apart by."""

    def __init__(self, port: Any, blocks: Sequence[Block], network: Any, x: Tensor, text, given):
        self.port, self.blocks, self.network = port, blocks, network
        self.is_image = [image for _, calls in blocks for image in calls]
        self.rows, self.size = len(x), tuple(x.shape[2:])
        self.text = 0 if text is None else text.shape[1]
        self.given = given  # what else the model is given
        self.number = self.made = 0
        self.block: tuple[str, int] | None = None  # the last that the network named
        self.rotations: dict[tuple, Tensor] = {}

    @property
    def grid(self) -> tuple[int, int]:
        """The image's height and width in tokens."""
        return self.port.grid(self.network, self.size)

    @property
    def tokens(self) -> int:
        """How many the image has."""
        return self.grid[0] * self.grid[1]

    def next(self, options: dict) -> Layer | None:
        """The attention that is called now, if it is one of the image's.

        options: the network's. Where they name the block, the count follows it, and what a node's
        patch of that block attends to beyond the block's own is none of the image's.
        """
        block, self.made = block_of(options), self.made + 1
        own = self.own_of(block)
        if own is not None and block != self.block:
            self.follow(block, own)
        number = self.number
        if own is not None and number not in own:
            return None
        self.number += 1
        if number >= len(self.is_image):
            raise RivalError(self.unlike("more attention calls than its kind has"))
        return (("dit", number), 0) if self.is_image[number] else None

    def follow(self, block: tuple[str, int], own: range) -> None:
        """A block begins. Those before the first that is named cannot be told, only counted."""
        if self.block is None and self.number > own.start:
            raise RivalError(self.unlike("attention calls of other blocks than its kind has"))
        self.block, self.number = block, own.start

    def end(self) -> None:
        """RivalError unless the calls were those of this kind of network, as far as can be told."""
        if self.made > 0 and self.block is None and self.number != len(self.is_image):
            calls = f"{self.number} of its {len(self.is_image)} attention calls"
            raise RivalError(self.unlike(calls))

    def unlike(self, made: str) -> str:
        return (
            f"this {self.port.network} made {made}: remove what another node added to the model, "
            "or what skips parts of it"
        )

    def own_of(self, block: tuple[str, int] | None) -> range | None:
        """The numbers of a block's attention calls, if it is one of this network's."""
        start = 0
        for name, calls in self.blocks:
            if name is not None and name == block:
                return range(start, start + len(calls))
            start += len(calls)
        return None

    def counted(self, block: tuple[str, int], replacement: Callable) -> Callable:
        """Another node's block replacement, after which the count goes on with the next block."""
        own = self.own_of(block)
        if own is None:
            return replacement

        def replaced(*args, **kwargs):
            self.number = own.start
            out = replacement(*args, **kwargs)
            self.number = own.stop
            return out

        return replaced

    def targets(self, heads: int, options: dict) -> list[Target | None]:
        """What the photo is placed by: for all rows, or for each chunk of rows."""
        if self.port.rotary is None:
            return [None]
        rope = options.get("rope_options") or {}  # a node may draw positions together
        spacing = rope.get("scale_y", 1.0), rope.get("scale_x", 1.0)
        places, chunks = self.port.places(self), len(options["uuids"])
        places = places if len(places) == 1 else places[:: len(places) // chunks]
        return [Target(self.grid, spacing, place, heads, self) for place in places]

    def of_rows(self, rows: slice) -> Call:
        """The same call as if it had these rows alone."""
        part, total = copy.copy(self), self.rows
        part.given = {
            key: given[rows] if isinstance(given, Tensor) and len(given) == total else given
            for key, given in self.given.items()
        }
        part.rows = len(range(total)[rows])
        return part

    def images(self, length: int) -> list[slice]:
        """Where the image's keys are among so many: of all rows, or one for each row."""
        starts = self.port.starts(self, length)
        if any(start < 0 or start + self.tokens > length for start in starts):
            raise RivalError(
                f"an attention of this {self.port.network} has {length} keys, among which the "
                f"image's {self.tokens} cannot be found: remove what adds to the image or the text"
            )
        return [slice(start, start + self.tokens) for start in starts]


class Counting:
    """A wrapper around model calls, in which their attention calls are counted.

    unread: is told of a call that made none, though the host's own step caches skipped nothing.
    """

    def __init__(self, port: Any, unread: Callable[[], None]):
        self.port, self.unread = port, unread

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                 transformer_options={}, **kwargs):
        outer = executor.class_obj.diffusion_model
        network = outer.get_submodule(self.port.find(outer) or "")
        if kwargs.get("ref_latents") and not self.port.references:
            raise RivalError(
                f"the prompt carries reference latents, which a {self.port.network}'s attention "
                "does not tell from the image: remove ReferenceLatent"
            )
        call = Call(self.port, self.port.blocks(network), network, x, c_crossattn, kwargs)
        options = {**transformer_options, CALL: call, "original_shape": list(x.shape)}
        replaces = options.get("patches_replace", {})
        if replaces.get("dit"):
            counted = {block: call.counted(block, f) for block, f in replaces["dit"].items()}
            options["patches_replace"] = {**replaces, "dit": counted}
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        call.end()
        around_network = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
        if not call.made and not EXPECTED & around_network.keys():
            self.unread()
        return out


def block_of(options: dict) -> tuple[str, int] | None:
    """The block that a network says it is in, by its name in patches_replace."""
    kind, number = options.get("block_type"), options.get("block_index")
    return None if kind is None or number is None else (f"{kind}_block", number)
