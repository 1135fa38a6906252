"""Which steps of the schedule are steered, and how (RIVAL section 3.2, t_align and t_early)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..values import number


class Attention(Enum):
    """What a generated token's self-attention reads."""

    PLAIN = "plain"  # its own image
    REPLACE = "replace"  # the exemplar alone
    CONCAT = "concat"  # the exemplar and its own image


def timestep_at(percent: float) -> float:
    """The paper's timestep at a fraction of the schedule: T(p) = 1000 (1 - p)."""
    return round(1000.0 * (1.0 - percent), 6)


@dataclass(frozen=True)
class Gates:
    """Fractions of the sampling schedule in [0, 1], 0 at pure noise.

    t_align = 600 is replace_end = 0.4, t_early = 600 is normalize_end = 0.4,
    editing_early_steps = 900 is inject_start = 0.1. An empty window is legal.
    """

    inject_start: float = 0.0
    replace_end: float = 0.4
    inject_end: float = 1.0
    normalize_end: float = 0.4

    def __post_init__(self):
        for name, value in vars(self).items():
            number(name, value, 0.0, 1.0)

    def attention(self, t: float, slack: float | None = None) -> Attention:
        """The rule at timestep t. The official counter compares t - 1, not t.

        slack: the timesteps' own. Where it is a number, the photo acts in [inject_start,
        inject_end) and replaces below replace_end, as fractions of the schedule.
        """
        if self.inject_start >= self.inject_end:
            return Attention.PLAIN  # an empty window; the comparisons below would let one step in
        at = t - (1 if slack is None else slack)
        if at > timestep_at(self.inject_start) or at < timestep_at(self.inject_end):
            return Attention.PLAIN
        return Attention.REPLACE if at > timestep_at(self.replace_end) else Attention.CONCAT

    def normalizes(self, t: float, slack: float | None = None) -> bool:
        """Whether the predicted noise takes the exemplar's statistics at timestep t."""
        return t - (slack or 0) > timestep_at(self.normalize_end)
