"""Files that a program of this repository makes once and keeps in `.cache/`. Standard library."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

REPO = Path(__file__).resolve().parent.parent
CACHE = REPO / ".cache"


def cached(stem: str, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """The file that `make` writes to the path it is given, made if it is not there yet.

    The name holds a digest of the sources, so a changed one never meets an old file; files of
    older sources are removed. Of several processes that ask at once one makes the file, moves it
    into place whole, and the others wait.
    """
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    path = CACHE / f"{stem}-{digest}.safetensors"
    if not path.exists():
        once(path, make, CACHE / f"{stem}.lock")
        _remove(old for old in CACHE.glob(f"{stem}-{'?' * len(digest)}.*")
                if not old.name.startswith(path.stem))
    return path


def once(path: Path, make: Callable[[Path], None], lock: Path | None = None) -> Path:
    """The file or folder that `make` leaves at the path it is given, made by one process only."""
    path.parent.mkdir(exist_ok=True)
    with _one_at_a_time(lock or path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _make(path, make)
    return path


def _make(path: Path, make: Callable[[Path], None]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        _remove([partial])


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Waits for whoever holds the lock. The system frees that of a process which has died."""
    with lock.open("ab") as stream:
        with contextlib.suppress(OSError):  # a file system without locks: more than one may work
            _lock(stream)
        yield


try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    def _lock(stream: IO) -> None:
        while True:
            try:
                return msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
            except OSError as error:
                if error.errno != errno.EDEADLOCK:  # which is: ten seconds have passed
                    raise
else:

    def _lock(stream: IO) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()
