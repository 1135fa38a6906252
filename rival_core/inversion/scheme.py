"""What an inversion scheme is: a walk up to the noise, and the walk down that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .scaling import Scaling
from .slopes import Rows

Slope = Callable[[Tensor, float], Tensor]
ONE_CALL = Rows()


@dataclass(frozen=True, eq=False)
class Walk:
    """What a scheme goes along, in both directions.

    levels: [S + 1] sigmas, rising. coupling: the method's one number, as it acts in each of these
    steps (see Coupling). noise: draws unit noise like the latents, anew at each call.
    """

    levels: Sequence[float]
    scaling: Scaling
    coupling: float = 1.0
    noise: Callable[[], Tensor] | None = None

    def falling(self, place: int) -> list[float]:
        """The levels from a place down."""
        return [*self.levels[place::-1]]


class Inversion(NamedTuple):
    """What an inversion leaves, in the order of the sigmas.

    residuals, evaluations: [S, B], how well each step was solved (of the last y that the model
    saw; the kept one is one update on), where any was, and with how many model calls.
    """

    latents: list[Tensor]  # S + 1 of [B, C, H, W]
    residuals: Tensor | None = None
    evaluations: Tensor | None = None
    partner: list[Tensor] | None = None  # EDICT's second latents, S + 1
    noise: list[Tensor] | None = None  # edit-friendly noise maps of unit scale, S

    def on(self, device: torch.device | str) -> Inversion:
        """The same with its latents and maps on a device."""
        kept = {name: getattr(self, name) for name in ("latents", "partner", "noise")}
        return self._replace(
            **{name: x and [t.to(device) for t in x] for name, x in kept.items()}
        )

    def of_chain(self) -> dict[str, Tensor | None]:
        """The fields of one image's Chain."""
        kept = {name: getattr(self, name) for name in ("latents", "partner", "noise")}
        residuals = None if self.residuals is None else self.residuals[:, 0]
        joined = {name: x and torch.cat(x) for name, x in kept.items()}
        return {**joined, "residuals": residuals, "calls": self.evaluations[:, 0]}


class Start(NamedTuple):
    """Where a walk down begins: x [B, C, H, W] at levels[place], and what the way up left there.

    below: the latent one level below; partner: EDICT's second latent; noise: all maps. None where
    x is no latent of the chain: the walk then starts as a plain sampler does.
    """

    x: Tensor
    place: int
    below: Tensor | None = None
    partner: Tensor | None = None
    noise: Tensor | None = None


def pairs(levels: Sequence[float]) -> list[tuple[float, float]]:
    return [*zip(levels, levels[1:])]


def euler_down(d: Slope, start: Start, walk: Walk) -> Tensor:
    """Euler's (DDIM's) walk. Cost: a call a step."""
    x = start.x
    for sigma, target in pairs(walk.falling(start.place)):
        x = x + (target - sigma) * d(x, sigma)
    return x


@dataclass(frozen=True)
class Coupling:
    """The one number that a method has: its own value, and what else it may be.

    per: of how many steps the value is meant as a whole; c in S steps then acts as c**(per / S).
    """

    own: float
    least: float
    most: float = 1.0
    above: bool = False  # whether `least` itself is left out
    per: int | None = None

    def acting(self, given: float, steps: int) -> float:
        """What acts in each of so many steps. given: 0 is the method's own value."""
        value = given or self.own
        return value if self.per is None else value ** (self.per / steps)

    def allows(self, given: float) -> bool:
        low = given > self.least if self.above else given >= self.least
        return given == 0 or (low and given <= self.most)

    def __str__(self) -> str:
        over = "more than " if self.above else ""
        return f"{over}{self.least:g} and up to {self.most:g}, or 0 for its own {self.own:g}"


@dataclass(frozen=True)
class Scheme:
    """One entry of SCHEMES.

    up:   (d, x [B, C, H, W] at the lowest level, walk) -> what an Inversion keeps.
    down: (d, start, walk) -> [B, C, H, W] at the lowest level.
    rows: model calls of a way up's steps.
    exact: whether `down` takes back what `up` did, whatever the guidance.
    sees: whether each call at one of the walk's levels, going up, is at the latent there.
    draws: whether it draws noise from a seed. leaves: what its way up leaves beside the latents,
    "partner" or "noise". flow: the models it is for, flows or others; None is both.
    """

    up: Callable[[Slope, Tensor, Walk], Inversion]
    down: Callable[[Slope, Start, Walk], Tensor] = euler_down
    rows: Rows = ONE_CALL
    exact: bool = False
    sees: bool = False
    coupling: Coupling | None = None
    draws: bool = False
    leaves: tuple[str, ...] = ()
    flow: bool | None = None

    @property
    def is_bound(self) -> bool:
        """Whether its way down leads from the chain's own latents only: maps belong to them."""
        return "noise" in self.leaves
