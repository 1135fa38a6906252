"""Which of a model's attention calls is which: they are counted, one model call at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...rival_core.chain.tokens import Layer
from ...rival_core.errors import RivalError
from .positions import Target

CALL = "rival_call"
Block = tuple[tuple[str, int] | None, tuple[bool, ...]]  # its name in patches_replace; its calls


class Call:
    """One model call while it runs: what its attention calls are told apart by."""

    def __init__(self, port: Any, blocks: Sequence[Block], network: Any, x: Tensor, text, given):
        self.port, self.blocks, self.network = port, blocks, network
        self.is_image = [image for _, calls in blocks for image in calls]
        self.size = tuple(x.shape[2:])
        self.text = 0 if text is None else text.shape[1]
        self.given = given  # what else the model is given
        self.number = self.made = 0
        self.rotations: dict[tuple, Tensor] = {}

    @property
    def grid(self) -> tuple[int, int]:
        """The image's height and width in tokens."""
        return self.port.grid(self.network, self.size)

    @property
    def tokens(self) -> int:
        """How many the image has."""
        return self.grid[0] * self.grid[1]

    def next(self) -> Layer | None:
        """The attention that is called now, if it is one of the image's."""
        number = self.number
        self.number += 1
        self.made += 1
        if number >= len(self.is_image):
            raise RivalError(
                f"this {self.port.network} makes more attention calls than its kind has: remove "
                "what another node added to it"
            )
        return (("dit", number), 0) if self.is_image[number] else None

    def start_of(self, block: tuple[str, int]) -> int | None:
        """The number of a block's first attention call."""
        start = 0
        for name, calls in self.blocks:
            if name == block:
                return start
            start += len(calls)
        return None

    def counted(self, block: tuple[str, int], replacement: Callable) -> Callable:
        """Another node's block replacement, after which the count goes on with the next block."""
        start = self.start_of(block)
        if start is None:
            return replacement
        (after,) = (start + len(calls) for name, calls in self.blocks if name == block)

        def replaced(*args, **kwargs):
            self.number = start
            out = replacement(*args, **kwargs)
            self.number = after
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
    """A wrapper around model calls, in which their attention calls are counted."""

    def __init__(self, port: Any):
        self.port = port

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                 transformer_options={}, **kwargs):
        outer = executor.class_obj.diffusion_model
        network = outer.get_submodule(self.port.find(outer) or "")
        call = Call(self.port, self.port.blocks(network), network, x, c_crossattn, kwargs)
        options = {**transformer_options, CALL: call, "original_shape": list(x.shape)}
        replaces = options.get("patches_replace", {})
        if replaces.get("dit"):
            counted = {block: call.counted(block, f) for block, f in replaces["dit"].items()}
            options["patches_replace"] = {**replaces, "dit": counted}
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if call.made > 0 and call.number != len(call.is_image):
            raise RivalError(
                f"this {self.port.network} made {call.number} of its {len(call.is_image)} "
                "attention calls: remove what skips parts of the model, or RIVAL Patch Model"
            )
        return out
