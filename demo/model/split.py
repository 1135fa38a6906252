"""Which captions are trained on, and which are held out for looking and measuring."""

from __future__ import annotations

import zlib

from scenes import Attributes, all_attributes, caption

HELD_OUT = 10  # every tenth combination, roughly, is never trained on


def trained_attributes(limit: int | None = None) -> list[Attributes]:
    """The combinations to train on, in an order that makes any first part of them varied."""
    chosen = [a for a in all_attributes() if not is_held_out(a)]
    chosen.sort(key=lambda a: zlib.crc32(f"order {caption(a)}".encode()))
    return chosen[:limit]


def is_held_out(attributes: Attributes) -> bool:
    return zlib.crc32(caption(attributes).encode()) % HELD_OUT == 0
