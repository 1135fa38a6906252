"""How UNets attend: hidden states are read, before keys and values are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ...rival_core.chain.tokens import Layer
from ...rival_core.steering.attention import blended_attention, lengthen
from .hooks import with_hooks
from .kernels import attention, for_longer_keys, untraced


class UNet:
    """The port of UNets: self-attention's hooks, `attn1_patch` and `attn1_replace`."""

    network = "UNet"
    has_positions = False
    has_words = True

    def find(self, network: torch.nn.Module) -> str | None:
        """Where in a network the UNet is, "" if it is one itself; None if there is not just one.

        torch.compile and other nodes put the UNet into a module of theirs, by an object patch.
        """
        found = [name for name, part in network.named_modules() if isinstance(part, UNetModel)]
        return found[0] if len(found) == 1 else None

    def layers(self, unet: UNetModel) -> tuple:
        """Each self-attention's (block, depth in the block, width), named as its hooks name it."""
        groups = {
            "input": unet.input_blocks,
            "middle": [] if unet.middle_block is None else [unet.middle_block],
            "output": unet.output_blocks,
        }
        layers = []
        for name, blocks in groups.items():
            for i, block in enumerate(blocks):
                found = [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
                layers += [
                    ((name, i), depth, m.attn1.to_q.in_features) for depth, m in enumerate(found)
                ]
        return tuple(layers)

    def lent(self, unet: UNetModel, size: Sequence[int]) -> int:
        """How many numbers a photo's row lends in a step: too few beside a row's own to count."""
        return 0

    def recording(self, model_options: dict, recorder: Any) -> dict:
        """The options of a call whose self-attention a recorder takes down."""
        return with_hooks(model_options, Recording(recorder))

    def lending(self, model_options: dict, reader: Any, device: torch.device) -> dict:
        """The options of a call whose rows read the photo as a reader says."""
        lending = Lending(reader, self.taken(model_options))
        faster, watch = for_longer_keys(model_options, device), reader.watch
        around = [] if watch is None else [watch]
        return with_hooks(model_options, lending, lending.replaces(), None, around, **faster)

    def riding(
        self, model_options: dict, reader: Any, riders: Sequence, device: torch.device
    ) -> dict:
        """The options of a call whose first rows, the riders, are what the others read."""
        riding = Riding(reader, riders)
        replaces = {(*block, depth): riding for block, depth in reader.layers()}
        faster = for_longer_keys(model_options, device)
        return with_hooks(model_options, attn1_replace=replaces, **faster)

    def taken(self, model_options: dict) -> set[tuple]:
        """The layers, or blocks, whose self-attention another node computes."""
        return set(model_options["transformer_options"].get("patches_replace", {}).get("attn1", {}))


class Recording:
    """An attn1 patch for the exemplar's own calls."""

    def __init__(self, recorder: Any):
        self.recorder = recorder

    @untraced
    def __call__(self, n, context, value, extra_options):
        layer = layer_of(extra_options)
        if self.recorder.wants(layer):
            self.recorder.keep(layer, extra_options["uuids"], context, value)
        self.recorder.end_if_done()
        return n, context, value


class Lending:
    """An attn1 patch for the generated rows, and the attn1 replaces of a fractional strength."""

    def __init__(self, reader: Any, taken: set[tuple]):
        self.reader = reader
        self.taken = taken

    @untraced
    def __call__(self, n, context, value, extra_options):
        layer = layer_of(extra_options)
        steering = self.reader.at(layer)
        if self.is_taken(layer) or not steering.readers:
            return n, context, value
        chunks = self.reader.read(layer, extra_options)
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

    def is_taken(self, layer: Layer) -> bool:
        """Whether another node computes this layer's self-attention in this call."""
        block, depth = layer
        return (*block, depth) in self.taken or block in self.taken

    def replaces(self) -> dict[tuple, Any]:
        """Attention functions that blend plain with injected, for the layers that need them."""
        free = [layer for layer in self.reader.blended_layers() if not self.is_taken(layer)]
        return {(*block, depth): self.blend for block, depth in free}

    @untraced
    def blend(self, q, k, v, extra_options, mask=None):
        layer = layer_of(extra_options)
        attend = partial(attention, extra_options=extra_options)
        length = self.reader.read(layer, extra_options)[0].context.shape[1]
        share, allowed = self.reader.shares(layer, q.shape[1], q, extra_options)
        replace = self.reader.at(layer).replace
        return blended_attention(attend, q, k, v, length, replace, share, allowed)


class Riding:
    """An attn1 replace for photos whose rows are the first of the call that reads them.

    Keys and values of all rows are made once, and the photos' are lent as they are.
    """

    def __init__(self, reader: Any, riders: Sequence):
        self.reader, self.riders = reader, riders

    @untraced
    def __call__(self, q, k, v, extra_options, mask=None):
        layer, count = layer_of(extra_options), len(self.riders)
        attend = partial(attention, extra_options=extra_options)
        self.reader.keep(layer, self.riders, k[:count], v[:count])
        photos = attend(q[:count], k[:count], v[:count])
        q, k, v = q[count:], k[count:], v[count:]
        steering, chunks = self.reader.at(layer), self.reader.read(layer, extra_options)
        keys, values = [c.context for c in chunks], [c.value for c in chunks]
        replace, blends = steering.replace, steering.blends
        rows = len(q) // len(chunks)
        k, v = (lengthen(own, lent, rows, replace and not blends)
                for own, lent in ((k, keys), (v, values)))  # fmt: skip
        if not blends:
            return torch.cat([photos, attend(q, k, v)])
        share, allowed = self.reader.shares(layer, q.shape[1], q, extra_options)
        length = keys[0].shape[1]
        blended = blended_attention(attend, q, k, v, length, replace, share, allowed)
        return torch.cat([photos, blended])


def layer_of(extra_options: dict) -> Layer:
    return extra_options["block"], extra_options["block_index"]

