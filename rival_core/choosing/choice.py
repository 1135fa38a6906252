"""Words that choose pictures of a batch: "2, 4", "1-3", "best 2", "all", "none"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import RivalError, shown

NUMBERS = re.compile(r"([0-9]{1,6})(?:\s*[-\u2013]\s*([0-9]{1,6}))?")
BEST = re.compile(r"best(?:\s*([0-9]{1,6}))?")
BETWEEN = re.compile("[,;\uff0c\u3001]")  # Chinese and Japanese ones, too


class Term(NamedTuple):
    """From the first to the last picture, or place of the ranking; last None: to the end."""

    first: int
    last: int | None
    ranked: bool = False


def parse(text: str) -> list[Term]:
    """What a text asks for, in its order; nothing for "none". RivalError if it is no choice."""
    pieces = [piece.strip() for piece in BETWEEN.split(text.lower()) if piece.strip()]
    if pieces == ["none"]:
        return []
    if not pieces:
        raise RivalError('chosen is empty: give numbers ("2, 4"), "best 1", "all" or "none"')
    return [term(piece, text) for piece in pieces]


def term(piece: str, text: str) -> Term:
    if piece == "all":
        return Term(1, None)
    numbers, best = NUMBERS.fullmatch(piece), BEST.fullmatch(piece)
    if numbers is None and best is None:
        raise RivalError(
            f'chosen is {shown(text)}: give numbers with commas between ("2, 4" or "1-3"), '
            '"best 1", "all" or "none"'
        )
    if best is not None:
        found = Term(1, int(best[1] or 1), ranked=True)
    else:
        found = Term(int(numbers[1]), int(numbers[2] or numbers[1]))
    if 0 in found[:2]:
        raise RivalError(f"chosen is {shown(text)}: pictures are numbered from 1")
    return found


def asks_for_best(terms: Sequence[Term]) -> bool:
    return any(term.ranked for term in terms)


def picks(terms: Sequence[Term], count: int, ranking: Sequence[int] = ()) -> list[int]:
    """The numbers chosen of 1 to count, in the text's order, each where it stands first.

    ranking: all numbers, the best first, if a term asks for that. RivalError beyond the count.
    """
    chosen: dict[int, None] = {}
    for first, last, ranked in terms:
        last = count if last is None else last
        if max(first, last) > count:
            wanted = f"the best {last}" if ranked else f"picture {max(first, last)}"
            there = "is 1 picture" if count == 1 else f"are {count} pictures"
            raise RivalError(f"chosen asks for {wanted} and there {there}: give no more than that")
        step = 1 if first <= last else -1
        places = range(first, last + step, step)
        chosen |= dict.fromkeys(ranking[i - 1] if ranked else i for i in places)
    return list(chosen)
