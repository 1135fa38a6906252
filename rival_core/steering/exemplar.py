"""One photo as one patch uses it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..chain.chain import Chain, ModelCard
from ..chain.features import FEATURES
from ..chain.tokens import Layer, Tokens, select
from ..errors import RivalError
from ..values import choice, number
from .gates import Gates
from .masks import every_second, resize_mask, tokens_inside
from .normalization import Statistics, statistics
from .parts import Part
from .positions import POSITIONS


@dataclass(frozen=True, eq=False, repr=False)
class Exemplar:
    """One photo as one patch uses it."""

    chain: Chain
    gates: Gates = field(default_factory=Gates)
    strength: float = 1.0
    layers: frozenset[Layer] | None = None  # whose self-attention reads it; None: all
    seen: Tensor | None = None  # [1, H, W], which part of the photo is read; None: all of it
    mask: Tensor | None = None  # [1, H, W], where in the target it acts; None: everywhere
    features: str = "live"  # one of FEATURES
    keys: str = "all"  # one of KEYS
    positions: str = "beside"  # one of POSITIONS, where the network has some

    def __post_init__(self):
        choice("positions", self.positions, POSITIONS)
        choice("exemplar_keys", self.keys, KEYS)
        number("strength", self.strength, 0.0, 1.0)
        choice("features", self.features, FEATURES)

    def __deepcopy__(self, memo) -> Exemplar:
        return self

    @property
    def acts(self) -> bool:
        """Whether it has an effect anywhere in the target."""
        return self.strength > 0 and (self.mask is None or bool(self.mask.any()))

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the photo's latent."""
        return self.chain.size

    def visible(self, tokens: Tokens, layer: Layer, replace: bool) -> Tokens:
        """Of the photo's tokens in one layer, those that are read: alone, or beside one's own."""
        count, index = tokens.count, None
        if self.seen is not None:
            index = tokens_inside(self.seen, count, self.size)
        if self.keys == "quarter" and not replace and layer in finest_layers(self.chain.model):
            index = thinned(index, every_second(count, self.size))
        return tokens if index is None else select(tokens, index)

    def statistics(self, eps: Tensor) -> Statistics:
        """Of the photo's predicted noise [1, C, H, W], where it may be read."""
        return statistics_inside(eps, self.seen)

    def weights(self, like: Tensor, part: Part | None = None) -> Tensor:
        """The strength at every place of a latent like this, or of a part, [1, 1, h, w]."""
        if self.mask is None:
            return like.new_full((1, 1, *like.shape[2:]), self.strength)
        mask = self.mask
        if part is not None:
            mask = part.of(resize_mask(mask, like.new_empty(1, 1, *part.size))[:, 0])
        return self.strength * resize_mask(mask, like)


KEYS = ("all", "quarter")


def thinned(seen: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """Of the tokens with the numbers `seen`, those with the numbers `kept`; all if none is left.

    None stands for all tokens.
    """
    if seen is None or kept is None:
        return kept if seen is None else seen
    both = seen[torch.isin(seen, kept)]
    return both if len(both) else seen


def finest_layers(card: ModelCard) -> frozenset[Layer]:
    """The self-attention layers with the most tokens, which are the narrowest."""
    narrowest = min(width for *_, width in card.layers)
    return frozenset((block, depth) for block, depth, width in card.layers if width == narrowest)


def in_order(exemplars: Iterable[Exemplar]) -> tuple[Exemplar, ...]:
    """In an order of their own: rounding, too, must not depend on which patch came first."""

    def content(exemplar: Exemplar) -> tuple:
        tensors = (exemplar.chain.end, exemplar.seen, exemplar.mask)
        numbers = [b"" if t is None else raw(t) for t in tensors]
        gates = [*vars(exemplar.gates).values(), exemplar.strength]
        return *numbers, gates, sorted(exemplar.layers or ()), exemplar.keys, (
            exemplar.positions
        )

    return tuple(sorted(exemplars, key=content))


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def fewer_layers(card: ModelCard) -> str:
    """What to choose where memory does not suffice for what all layers read."""
    return "a smaller photo" if card.is_transformer else "layers decoder or coarse"


LAYERS = ("all", "decoder", "coarse", "fine")


def choose_layers(card: ModelCard, name: str) -> frozenset[Layer] | None:
    """The self-attention layers that one of LAYERS names; None for all of them.

    decoder: the UNet's way up. coarse: its widest level, where objects and their arrangement are
    decided. fine: all others, which draw texture and colour. RivalError if that is none.
    """
    if choice("layers", name, LAYERS) == "all":
        return None
    if card.is_transformer:
        raise RivalError(
            f"layers is {name!r}, which names parts of a UNet, and this model is a transformer: "
            "choose all"
        )
    widest = max(width for *_, width in card.layers)
    chosen = {
        "decoder": [x for x in card.layers if x[0][0].startswith(("output", "up"))],
        "coarse": [x for x in card.layers if x[2] == widest],
        "fine": [x for x in card.layers if x[2] < widest],
    }[name]
    if not chosen:
        raise RivalError(f"layers is {name!r} and this model has no such layer: choose all")
    return frozenset((block, depth) for block, depth, _ in chosen)


def statistics_inside(eps: Tensor, mask: Tensor | None) -> Statistics:
    """The statistics of eps [B, C, H, W] under a mask [1, H, W], or of all of it."""
    if mask is None:
        return statistics(eps)
    size = tuple(eps.shape[-2:])
    inside = tokens_inside(mask, size[0] * size[1], size)
    if len(inside) < 2:
        return statistics(eps)  # of a single place there is no variance
    seen = eps.flatten(2)[:, :, inside.to(eps.device)]
    return statistics(seen.view(*seen.shape, *[1] * (eps.ndim - 3)))
