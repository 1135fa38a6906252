"""The one error type that a user is meant to read, and values as it repeats them."""

from __future__ import annotations

import re
import reprlib
from numbers import Real
from typing import Any

MOST_SHOWN = 100  # characters


class RivalError(ValueError):
    """One sentence: the wrong value and the fix. The node that raises it puts its name first."""


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = MOST_SHOWN


def shown(value: Any) -> str:
    """A value of any type as a sentence repeats it: one line of at most MOST_SHOWN characters."""
    if not isinstance(value, str | bool | Real | list | tuple | dict | None):
        return f"a {type(value).__name__}"
    text = re.sub(r"\s*\n\s*", " ", _brief.repr(value))  # of a tensor inside it
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
