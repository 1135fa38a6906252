"""Explicit inversion schemes: a walk up to the noise, and the walk down that belongs to it.

A scheme is one pure function, or a pair of them, and an entry in SCHEMES; whatever asks for a
solver's name finds it there. All are written for d(x, sigma), the slope dx/dsigma of the guided
prediction (see slopes.py), in the host's coordinates: eps- and v-models and flows alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import RivalError, shown
from .ancestral import ancestral_step
from .scheme import Coupling, Inversion, Scheme, Slope, Start, Walk, pairs
from .slopes import Rows

# Two-step schemes. Each latent follows from the two before it; read backwards, the same line gives
# the first of three from the others, which is why the way back is exact.

Leap = Callable[[Tensor, Tensor, Tensor, tuple[float, float, float], Walk, float], Tensor]


def o_belm(behind, here, slope, levels, walk, _) -> Tensor:
    """O-BELM (2410.07273): of all such rules the one with the smallest local error. Order 2."""
    last, now, target = levels
    done, ahead = now - last, target - now
    r = (ahead / done) ** 2
    return r * behind + (1 - r) * here + ahead * (ahead + done) / done * slope


def bdia(behind, here, slope, levels, walk, gamma) -> Tensor:
    """BDIA (2307.10829): Euler's step, less gamma times what the last one missed by.

    The miss is measured in variance-preserving values, hence rescaled.
    """
    last, now, target = levels
    miss = behind - (here + (last - now) * slope)
    return here + (target - now) * slope + gamma * walk.scaling.rescale(miss, last, target)


def leaps(leap: Leap) -> tuple[Callable, Callable]:
    """A two-step scheme's ways up and down; its first step without a second latent is Euler's."""

    def along(d, behind, here, levels, walk, gamma) -> list[Tensor]:
        latents = [behind, here]
        for last, now, target in zip(levels, levels[1:], levels[2:]):
            three = (last, now, target)
            latents.append(leap(*latents[-2:], d(latents[-1], now), three, walk, gamma))
        return latents

    def up(d: Slope, x: Tensor, walk: Walk) -> Inversion:
        sigma, target = walk.levels[:2]
        first = x + (target - sigma) * d(x, sigma)
        return Inversion(along(d, x, first, walk.levels, walk, 1 / walk.coupling))

    def down(d: Slope, start: Start, walk: Walk) -> Tensor:
        x, below, levels = start.x, start.below, walk.falling(start.place)
        if below is None:
            below = x + (levels[1] - levels[0]) * d(x, levels[0])
        return along(d, x, below, levels, walk, walk.coupling)[-1]

    return up, down


# EDICT (2211.12446): two latents, each of which moves by the other's slope and is
# then mixed with it. Who moves first alternates, counted from the top.


def edict_up(d: Slope, x: Tensor, walk: Walk) -> Inversion:
    p, y, steps = walk.coupling, x, len(walk.levels) - 1
    latents, partner = [x], [x]
    for place, (low, high) in enumerate(pairs(walk.levels), 1):
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        first, second = (x, y) if (steps - place) % 2 == 0 else (y, x)
        second = second + (high - low) * d(walk.scaling.rescale(first, low, high), high)
        first = first + (high - low) * d(second, high)
        x, y = (first, second) if (steps - place) % 2 == 0 else (second, first)
        latents.append(x)
        partner.append(y)
    return Inversion(latents, partner=partner)


def edict_down(d: Slope, start: Start, walk: Walk) -> Tensor:
    p, x, steps = walk.coupling, start.x, len(walk.levels) - 1
    y = x if start.partner is None else start.partner
    for place, (high, low) in zip(range(start.place, 0, -1), pairs(walk.falling(start.place))):
        first, second = (x, y) if (steps - place) % 2 == 0 else (y, x)
        first = first + (low - high) * d(second, high)
        # The new latent is the lower level's, and the model is told the upper one.
        second = second + (low - high) * d(walk.scaling.rescale(first, low, high), high)
        x, y = (first, second) if (steps - place) % 2 == 0 else (second, first)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    return x


# Edit-friendly DDPM (2304.06140, algorithm 1): latents of independent noises, and the maps that
# ancestral sampling would have had to draw to go from each to the next.


def ancestral(sigma: float, target: float) -> tuple[float, float]:
    """The level that a step goes down to, and the scale of its map.

    To 0 no noise is drawn, and the map is what Euler's step lacks, as it is.
    """
    down, _, up = ancestral_step(sigma, target, 1.0)
    return down, up or 1.0


def edit_friendly_up(d: Slope, x: Tensor, walk: Walk) -> Inversion:
    """The last map is kept, which the official code sets to zero: with it the way back is exact."""
    levels, clean = walk.levels, walk.scaling.rescale(x, walk.levels[0], 0.0)
    shares = [walk.scaling.clean_share(sigma) for sigma in levels]
    latents = [x] + [share * clean + sigma * walk.noise()
                     for share, sigma in zip(shares[1:], levels[1:])]
    maps = []
    for (low, high), (below, here) in zip(pairs(levels), pairs(latents)):
        down, up = ancestral(high, low)
        maps.append((below - here - (down - high) * d(here, high)) / up)
    return Inversion(latents, noise=maps)


def edit_friendly_down(d: Slope, start: Start, walk: Walk) -> Tensor:
    x = start.x
    for place, (high, low) in zip(range(start.place, 0, -1), pairs(walk.falling(start.place))):
        down, up = ancestral(high, low)
        x = x + (down - high) * d(x, high) + up * start.noise[place - 1]
    return x


# One-step schemes, the same in both directions. Not exact.


def midpoint(d: Slope, x: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """The explicit midpoint rule, which RF-Solver (2411.04746) is to the last bits. Order 2."""
    latents = [x]
    for sigma, target in pairs(levels):
        middle = (sigma + target) / 2
        ahead = x + (middle - sigma) * d(x, sigma)
        latents.append(x := x + (target - sigma) * d(ahead, middle))
    return latents


def fireflow(d: Slope, x: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """FireFlow (2412.07517): midpoint, the last slope standing in for the one at x. Order 2."""
    latents, slope = [x], d(x, levels[0])
    for sigma, target in pairs(levels):
        middle = (sigma + target) / 2
        slope = d(x + (middle - sigma) * slope, middle)
        latents.append(x := x + (target - sigma) * slope)
    return latents


def uni_inv(d: Slope, x: Tensor, levels: Sequence[float]) -> list[Tensor]:
    """Uni-Inv (2504.13109): the inverse of Euler's step down, guessed along the last slope."""
    latents, slope = [x], d(x, levels[0])
    for sigma, target in pairs(levels):
        slope = d(x + (target - sigma) * slope, target)
        latents.append(x := x + (target - sigma) * slope)
    return latents


def both_ways(along: Callable[[Slope, Tensor, Sequence[float]], list[Tensor]]):
    """The ways up and down of a scheme that knows no direction."""

    def up(d: Slope, x: Tensor, walk: Walk) -> Inversion:
        return Inversion(along(d, x, walk.levels))

    def down(d: Slope, start: Start, walk: Walk) -> Tensor:
        return along(d, start.x, walk.falling(start.place))[-1]

    return up, down


def rf_inversion_up(d: Slope, x: Tensor, walk: Walk) -> Inversion:
    """RF-Inversion (2410.10792, algorithm 1): a flow's Euler walk, drawn to one noise by gamma."""
    latents, noise = [x], walk.noise()
    for time, target in pairs(walk.levels):
        velocity = d(x, time)
        towards = (noise - x) / (1 - time)
        velocity = velocity + walk.coupling * (towards - velocity)
        latents.append(x := x + (target - time) * velocity)
    return Inversion(latents)


SCHEMES: dict[str, Scheme] = {
    "uni_inv": Scheme(both_ways(uni_inv)[0], rows=Rows(2, 1)),
    "obelm": Scheme(*leaps(o_belm), exact=True, sees=True),
    "bdia": Scheme(*leaps(bdia), exact=True, sees=True, coupling=Coupling(1.0, 0.9, per=50)),
    "edict": Scheme(edict_up, edict_down, Rows(2, 2), exact=True, leaves=("partner",),
                    coupling=Coupling(0.93, 0.5, above=True, per=50)),
    "midpoint": Scheme(*both_ways(midpoint), Rows(2, 2), sees=True),
    "edit_friendly": Scheme(edit_friendly_up, edit_friendly_down, exact=True, sees=True,
                            draws=True, leaves=("noise",), flow=False),
    "rf_inversion": Scheme(rf_inversion_up, sees=True, draws=True, flow=True,
                           coupling=Coupling(0.5, 0.0, above=True)),
    "fireflow": Scheme(*both_ways(fireflow), Rows(2, 1)),
}


def check_coupling(solver: str, coupling: float) -> None:
    """RivalError for a number that the solver's method cannot have; others are not used."""
    scheme = SCHEMES.get(solver)
    if scheme is not None and scheme.coupling is not None and not scheme.coupling.allows(coupling):
        raise RivalError(f"coupling is {shown(coupling)}: give {solver} {scheme.coupling}")


def check_family(solver: str, is_flow: bool) -> None:
    """RivalError if a solver's method is not for such a model."""
    scheme = SCHEMES.get(solver)
    if scheme is not None and scheme.flow not in (None, is_flow):
        other = "is for flow models, and this is none" if scheme.flow else "is not for flow models"
        raise RivalError(f"the solver {solver} {other}: choose obelm, or another solver")
