"""Several exemplars acting as one at a step of the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .chain import Chain
from .gates import Attention, Gates
from .normalization import Statistics, adain, average


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One photo as one patch uses it."""

    chain: Chain
    gates: Gates = field(default_factory=Gates)
    strength: float = 1.0

    def __deepcopy__(self, memo) -> Exemplar:
        return self


@dataclass(frozen=True)
class Steering:
    """What acts at one timestep. Whatever the order of the exemplars, the result is the same."""

    readers: tuple[Exemplar, ...]  # whose tokens are read, side by side
    replace: bool  # own tokens are dropped: every reader's gates say replace
    normalizers: tuple[Exemplar, ...]  # whose statistics the predicted noise takes

    @property
    def attention_strength(self) -> float:
        return max((e.strength for e in self.readers), default=0.0)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Every chain whose exemplar must be run at this step, each once."""
        return tuple({id(e.chain): e.chain for e in (*self.readers, *self.normalizers)}.values())


def steering(exemplars: Sequence[Exemplar], t: float) -> Steering:
    """The exemplars whose gates are open at timestep t."""
    active = [e for e in exemplars if e.strength > 0]
    readers = tuple(e for e in active if e.gates.attention(t) is not Attention.PLAIN)
    return Steering(
        readers,
        all(e.gates.attention(t) is Attention.REPLACE for e in readers),
        tuple(e for e in active if e.gates.normalizes(t)),
    )


def normalize(eps: Tensor, parts: Sequence[Statistics], strengths: Sequence[float]) -> Tensor:
    """The predicted noise eps [B, C, H, W] with the exemplars' averaged statistics.

    The largest strength blends it with the plain prediction: 1 is RIVAL exactly.
    """
    aligned = adain(eps, average(parts, strengths))
    strength = max(strengths)
    return aligned if strength >= 1 else torch.lerp(eps, aligned, strength)
