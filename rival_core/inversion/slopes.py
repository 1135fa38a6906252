"""A model as a scheme asks it: for the slope dx/dsigma of its trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .scaling import Scaling


def to_d(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """The derivative dx/dsigma: the predicted noise of eps- and v-models, the flow's velocity."""
    return (x - denoised) / sigma


class Rows(NamedTuple):
    """Model calls of a walk's first step, and of each further one."""

    first: int = 1
    further: int = 1

    @property
    def most(self) -> int:
        return max(self)

    def of(self, steps: int) -> list[int]:
        return [self.first] + [self.further] * (steps - 1)

    def place(self, call: int) -> tuple[int, int]:
        """The step, and the call within it, of a walk's calls; all from 0."""
        if call < self.first:
            return 0, call
        step, within = divmod(call - self.first, self.further)
        return step + 1, within


class Call(NamedTuple):
    """One call of a walk, as it is told."""

    x: Tensor
    sigma: float  # as the scheme asked
    denoised: Tensor
    slope: Tensor
    step: int
    iteration: int


class Slopes:
    """d(x, sigma) of a model (x [B, ...], sigma [B]) -> denoised, each call told to `told`.

    At sigma 0 the quotient is 0 / 0: see Scaling.lowest for what is asked in its place.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        scaling: Scaling,
        first_level: float,
        rows: Rows,
        told: Callable[[Call], None],
    ):
        """first_level: the lowest of the walk that is not 0."""
        self.model, self.scaling, self.first_level = model, scaling, first_level
        self.rows, self.told = rows, told
        self.calls = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        seen, level = (x, sigma) if sigma > 0 else self.scaling.lowest(x, self.first_level)
        denoised = self.model(seen, seen.new_full([len(seen)], level))
        slope = to_d(seen, level, denoised)
        self.told(Call(seen, sigma, denoised, slope, *self.rows.place(self.calls)))
        self.calls += 1
        return slope
