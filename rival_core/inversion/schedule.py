"""Timesteps and sigmas: the paper's schedule, and the checks every other schedule must pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..errors import RivalError

FEWEST_STEPS, MOST_STEPS = 5, 400
HALVINGS = 50  # of the whole schedule, after which float64 knows no finer


class Timesteps(Protocol):
    """A model's two-way map between sigma and the timestep in [0, 1000] that training used.

    slack: how gates compare those: None as the official counter of whole timesteps does, else as
    percents of the schedule, which are known to within this many timesteps (see Gates).
    """

    slack: ClassVar[float | None]

    def sigma(self, t: int) -> float: ...

    def t(self, sigma: float) -> float: ...


def percent_done(timesteps: Timesteps, sigma: float) -> float:
    """Which fraction of the schedule is done at a sigma, so that a gate set there has passed."""
    return 1 - (timesteps.t(sigma) - (timesteps.slack or 0)) / 1000


@dataclass(frozen=True, eq=False)
class TableTimesteps:
    """A discrete model's own table of sigmas, rising, one for each of its 1000 timesteps."""

    slack: ClassVar[float | None] = None

    sigmas: Tensor  # [1000]

    def sigma(self, t: int) -> float:
        return float(self.sigmas[t])

    def t(self, sigma: float) -> float:
        """The table's nearest timestep in log sigma, as the model itself is told."""
        if sigma <= 0.0:
            return 0.0
        return float((self.sigmas.log() - math.log(sigma)).abs().argmin())


@dataclass(frozen=True)
class LogLinearTimesteps:
    """A continuous (EDM) model: log sigma is linear in the schedule's percent, t = 1000 (1 - p)."""

    slack: ClassVar[float | None] = None

    sigma_min: float
    sigma_max: float

    def sigma(self, t: int) -> float:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** (t / 1000)

    def t(self, sigma: float) -> float:
        if sigma <= 0.0:
            return 0.0
        span = math.log(self.sigma_max / self.sigma_min)
        # A float32 sigma knows its t to 1e-5 only, and gates compare whole timesteps.
        return round(1000 * math.log(sigma / self.sigma_min) / span, 3)


@dataclass(frozen=True)
class FlowTimesteps:
    """A flow model: t = 1000 (1 - p), p the host's percent of the schedule, 0 at pure noise.

    percent_to_sigma: the sampling's own, falling from 1 at percent 0 to 0 at percent 1, whatever
    bends it between. A float32 sigma near 1 knows its t to 5e-4 under a shift of 8.
    """

    slack: ClassVar[float | None] = 1e-3

    percent_to_sigma: Callable[[float], float]

    def sigma(self, t: int) -> float:
        return float(self.percent_to_sigma(1 - t / 1000))

    def t(self, sigma: float) -> float:
        """By bisection: some 50 evaluations, and no class of samplings needs a formula here."""
        noisier, cleaner = 0.0, 1.0
        if sigma >= self.percent_to_sigma(noisier):
            return 1000.0
        for _ in range(HALVINGS):
            middle = (noisier + cleaner) / 2
            if self.percent_to_sigma(middle) > sigma:
                noisier = middle
            else:
                cleaner = middle
        return 1000 * (1 - cleaner)


def rival_timesteps(steps: int) -> list[int]:
    """The paper's timesteps, rising: leading spacing with offset 1 (1, 21, ..., 981 for 50).

    Raises RivalError below 5 or above 400 steps, where that spacing has no usable top sigma.
    """
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        raise RivalError(
            f"schedule 'rival' serves {FEWEST_STEPS} to {MOST_STEPS} steps, not {steps}: "
            "choose the schedule 'sgm_uniform' or other steps"
        )
    return [(1000 // steps) * i + 1 for i in range(steps)]


def rival_sigmas(timesteps: Timesteps, steps: int) -> Tensor:
    """[steps + 1] sigmas, falling: the paper's timesteps, then the terminal one at timestep 0.

    The same list serves inversion and sampling. The terminal sigma is not zero (0.0292 for SD):
    the official scheduler has set_alpha_to_one = False.
    """
    rising = [0, *rival_timesteps(steps)]
    return torch.tensor([timesteps.sigma(t) for t in reversed(rising)], dtype=torch.float32)


def check_sigmas(sigmas: Tensor) -> Tensor:
    """The sigmas as float32 on the CPU, or RivalError saying why no chain can follow them."""
    sigmas = sigmas.detach().to("cpu", torch.float32).flatten()
    if len(sigmas) < 2:
        raise RivalError(f"a chain needs at least 2 sigmas, not {len(sigmas)}: give more steps")
    if not torch.isfinite(sigmas).all():
        raise RivalError("the sigmas hold NaN or infinity: use a scheduler that ends at 0")
    if sigmas[-1] < 0:
        raise RivalError(f"the last sigma is {sigmas[-1]:.4g}: sigmas must not be negative")
    rises = (sigmas.diff() >= 0).nonzero()
    if len(rises):
        i = int(rises[0])
        raise RivalError(
            f"the sigmas must fall at every step, but go from {sigmas[i]:.4g} to "
            f"{sigmas[i + 1]:.4g} at step {i + 1}: use fewer steps, or do not flip them"
        )
    return sigmas
