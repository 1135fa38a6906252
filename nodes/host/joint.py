"""How DiTs attend: image and text in one attention, whose keys and values are read as they enter.

One function of the host's runs every attention of a model call, and it says nothing of which it
is. So the calls of one model call are counted (calls.py); a network makes the same ones for the
photo and for the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...rival_core.chain.tokens import Layer
from ...rival_core.steering.joint import (
    allowed_bias,
    arranged_mask,
    arranged_rows,
    share_of_all,
)
from .calls import CALL, Block, Call, Counting
from .hooks import with_hooks
from .kernels import OVERRIDE, explained_kernel, for_longer_keys, untraced
from .positions import Rotary

ALL = slice(None)


@dataclass(frozen=True)
class Joint:
    """The port of a kind of DiT, as a row of data.

    network: ComfyUI's class, which is also what users are told. blocks: what attention calls a
    network makes, in order. starts: where among so many keys the image's begin, for all rows or for
    each. width: of its tokens. patch: the latent pixels to a side of a token, or the attribute that
    tells. places: where the text's length puts the image among positions, for all rows or for each.
    references: whether the image is told from a prompt's reference latents, if the network has any.
    """

    network: str
    blocks: Callable[[Any], list[Block]]
    starts: Callable[[Call, int], list[int]]
    width: Callable[[Any], int]
    patch: str | int = "patch_size"
    rotary: Rotary | None = None
    places: Callable[[Call], list[float]] = lambda call: [0.0]
    references: bool = True
    has_words = False

    @property
    def has_positions(self) -> bool:
        return self.rotary is not None

    def find(self, network: torch.nn.Module) -> str | None:
        """Where in a network the DiT is, "" if it is one itself; None if there is not just one."""
        found = [n for n, part in network.named_modules() if type(part).__name__ == self.network]
        return found[0] if len(found) == 1 else None

    def layers(self, network: torch.nn.Module) -> tuple:
        """Each of the image's attention calls, by its number among all."""
        calls = [image for _, block in self.blocks(network) for image in block]
        width = self.width(network)
        return tuple((("dit", i), 0, width) for i, image in enumerate(calls) if image)

    def grid(self, network: torch.nn.Module, size: Sequence[int]) -> tuple[int, int]:
        """The height and width in tokens of a latent of this size, of one frame."""
        patch = self.patch if isinstance(self.patch, int) else getattr(network, self.patch)
        height, width = patch[-2:] if isinstance(patch, Sequence) else (patch, patch)
        return math.ceil(size[-2] / height), math.ceil(size[-1] / width)

    def lent(self, network: torch.nn.Module, size: Sequence[int]) -> int:
        """How many numbers a photo's row of this size lends in a step: keys and values."""
        rows, columns = self.grid(network, size)
        return 2 * rows * columns * sum(width for *_, width in self.layers(network))

    def recording(self, model_options: dict, recorder: Any) -> dict:
        """The options of a call whose self-attention a recorder takes down."""
        return self.hooked(model_options, Recording(recorder), recorder.unread)

    def lending(self, model_options: dict, reader: Any, device: torch.device) -> dict:
        """The options of a call whose rows read the photo as a reader says."""
        around = [] if reader.watch is None else [reader.watch]
        faster = for_longer_keys(model_options, device)
        faster = with_hooks(model_options, **faster)
        return self.hooked(faster, Lending(reader), reader.unread, around)

    def riding(
        self, model_options: dict, reader: Any, riders: Sequence, device: torch.device
    ) -> dict:
        """The options of a call whose first rows, the riders, are what the others read."""
        faster = for_longer_keys(model_options, device)
        faster = with_hooks(model_options, **faster)
        return self.hooked(faster, Riding(reader, riders), reader.unread)

    def hooked(
        self, model_options: dict, hook: Any, unread: Callable, around: Sequence = ()
    ) -> dict:
        before = model_options["transformer_options"].get(OVERRIDE)
        override = {OVERRIDE: partial(attend, hook, before)}
        around = [*around, Counting(self, unread)]
        return with_hooks(model_options, around_apply_model=around, **override)

    def taken(self, model_options: dict) -> set[tuple]:
        """None: whatever another node puts into a block, its attention is this one."""
        return set()


@untraced
def attend(hook: Any, before: Callable | None, func: Callable, q, k, v, heads, mask=None, *args,
           **kwargs):
    """The host's attention override: what it calls in place of its own function, for every call."""
    function = func if before is None else partial(before, func)
    options = kwargs["transformer_options"]
    call = options.get(CALL)  # none outside the model's own calls, as in some ControlNets
    layer = None if call is None else call.next(options)

    def attention(k: Tensor, v: Tensor, mask: Tensor | None, rows: slice = ALL) -> Tensor:
        with explained_kernel(before, q, k):
            return function(q[rows], k, v, heads, mask, *args, **kwargs)

    if layer is None:
        return attention(k, v, mask)
    v = v.reshape(k.shape)  # SD3's values come with their heads apart
    return hook(layer, attention, k, v, heads, mask, options)


class Recording:
    """What the exemplar's own calls read, taken down."""

    def __init__(self, recorder: Any):
        self.recorder = recorder

    def __call__(self, layer: Layer, attention: Callable, k, v, heads, mask, options) -> Tensor:
        call = options[CALL]
        if self.recorder.wants(layer):
            images = call.images(k.shape[-2])
            rows, places = options["uuids"], call.port.places(call)
            images, places = (one if len(one) > 1 else one * len(rows) for one in (images, places))
            for i, (row, image, place) in enumerate(zip(rows, images, places)):
                # Copies: a view would keep the text's keys, too.
                own = (t[i : i + 1, ..., image, :].clone() for t in (k, v))
                self.recorder.keep(layer, [row], *own, place)
        self.recorder.end_if_done()
        return attention(k, v, mask)


class Lending:
    """What the generated rows read beside their own."""

    def __init__(self, reader: Any):
        self.reader = reader

    def __call__(self, layer: Layer, attention: Callable, k, v, heads, mask, options) -> Tensor:
        steering, call = self.reader.at(layer), options[CALL]
        if not steering.readers:
            return attention(k, v, mask)
        images = call.images(k.shape[-2])
        targets = call.targets(heads, options)
        chunks = self.reader.read(layer, options, targets)
        sets, replace = len(steering.readers), steering.replace
        keys, values = [c.context for c in chunks], [c.value for c in chunks]
        longer = [arranged_rows(own, images, lent, sets, replace)
                  for own, lent in ((k, keys), (v, values))]  # fmt: skip
        longer_mask = None
        if mask is not None:
            longer_mask = arranged_mask(mask, images, chunks[0].count, sets, replace)
        if not steering.blends:
            return attention(*longer, longer_mask)
        return self.blend(layer, attention, k, v, mask, longer, longer_mask, images, options)

    def blend(
        self, layer: Layer, attention: Callable, k, v, mask, longer, longer_mask, images, options
    ) -> Tensor:
        """(1 - share) plain + share injected attention, of every query."""
        length, n = k.shape[-2], options[CALL].tokens
        share, allowed = self.reader.shares(layer, n, k, options)
        if allowed is not None:
            lengths, replace = self.reader.lengths(layer), self.reader.at(layer).replace
            only = torch.cat([allowed_bias(allowed, image, length, lengths, replace, k)
                              for image in images])
            longer_mask = both(only, longer_mask)
        plain, injected = attention(k, v, mask), attention(*longer, longer_mask)
        if isinstance(share, Tensor):
            share = torch.cat([share_of_all(share, image, length) for image in images]).to(plain)
            share = share if plain.ndim == 3 else share[:, None]
        return torch.lerp(plain, injected, share)


class Riding:
    """Photos whose rows are the first of the call that reads them: two attentions in each layer."""

    def __init__(self, reader: Any, riders: Sequence):
        self.reader, self.riders = reader, riders
        self.photos, self.others = Recording(reader), Lending(reader)

    def __call__(self, layer: Layer, attention: Callable, k, v, heads, mask, options) -> Tensor:
        if not self.reader.at(layer).readers:
            return attention(k, v, mask)
        count, out = len(self.riders), []
        for hook, rows, uuids in (
            (self.photos, slice(count), self.riders),
            (self.others, slice(count, None), options["uuids"]),
        ):
            told = {**options, CALL: options[CALL].of_rows(rows), "uuids": uuids}
            its_mask = mask[rows] if mask is not None and is_by_row(mask, k) else mask
            own = partial(attention, rows=rows)
            out.append(hook(layer, own, k[rows], v[rows], heads, its_mask, told))
        return torch.cat(out)


def is_by_row(mask: Tensor, keys: Tensor) -> bool:
    """Whether every row has a mask of its own."""
    return mask.ndim > 2 and len(mask) == len(keys)


def both(bias: Tensor, mask: Tensor | None) -> Tensor:
    """What to add to scores [., L, keys] so that both say what may be read."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, -math.inf)
    return (bias[:, None] if mask.ndim == 4 else bias) + mask
