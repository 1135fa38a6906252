"""What a setting may be: one sentence for every value that it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from typing import Any

from .errors import MOST_SHOWN, RivalError, shown


def choice(name: str, value: Any, among: Iterable[str]) -> str:
    """The value, if it is one of these words."""
    words = list(among)
    if not isinstance(value, str) or value not in words:
        named = ", ".join(words)
        raise RivalError(
            f"{name} is {shown(value)}: choose one of "
            f"{named if len(named) <= MOST_SHOWN else f'the {len(words)} in its list'}"
        )
    return value


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int, if it is a whole number in that range. 2.0 is none, nor is True."""
    try:
        whole = None if isinstance(value, bool) else index(value)
    except TypeError:
        whole = None
    if whole is None or whole < least or (most is not None and whole > most):
        raise RivalError(
            f"{name} is {shown(value)}: give a whole number, {in_range(least, most)}"
        )
    return whole


def number(name: str, value: Any, least: float | None = None, most: float | None = None) -> float:
    """The value as a float, if it is a finite number in that range."""
    try:
        real = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a huge int
        real = math.inf
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    if not (math.isfinite(real) and low <= real <= high):
        raise RivalError(f"{name} is {shown(value)}: give {in_range(least, most) or 'a number'}")
    return real


def flag(name: str, value: Any) -> bool:
    """The value as a bool, if it is one, or the 0 or 1 that stands for one."""
    if not isinstance(value, int) or value not in (0, 1):
        raise RivalError(f"{name} is {shown(value)}: give true or false")
    return bool(value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RivalError(f"{name} is {shown(value)}: give text")
    return value


def in_range(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "" if least is None else f"{least:g} or more"
    return f"{least} to {most}" if isinstance(most, int) else f"{least:g} to {most:g}"
