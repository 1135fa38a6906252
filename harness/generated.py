"""Files that a program of this repository makes once and keeps in `.cache/`. Standard library."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CACHE = REPO / ".cache"


def cached(stem: str, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """The file that `make` writes to the path it is given, made if it is not there yet.

    The name holds a digest of the sources, so a changed one never meets an old file. Several
    processes may ask at once: each writes a file of its own and moves it into place whole.
    """
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    path = CACHE / f"{stem}-{digest}.safetensors"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path
