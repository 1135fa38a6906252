"""A file that appears under its name when it is whole, or not at all.

It is written beside its place under a name that ends in PART, and named when every byte is on the
disk. What a killed process leaves is such a part; the next file in that folder removes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import shown

try:
    import fcntl
except ImportError:  # Windows, which lets nobody delete an open file
    fcntl = None

PART = ".rival.part"
ABANDONED = 3600.0  # seconds without a write, where no lock can tell
ADVICE = {
    errno.ENOSPC: "free some space on the disk of {}",
    errno.EDQUOT: "free some of your space on the disk of {}",
    errno.EFBIG: "the disk of {} takes no file of this size: choose a folder on another",
    errno.EROFS: "the folder is read-only: make {} writable, or choose a subfolder that is",
    errno.EACCES: "the folder is read-only: make {} writable, or choose a subfolder that is",
    errno.EPERM: "the folder is read-only: make {} writable, or choose a subfolder that is",
    errno.ENOENT: "the folder is gone: run again, which makes {} anew",
    errno.ESTALE: "the folder is gone: connect the drive of {} again",
    errno.EIO: "the disk of {} does not answer: check it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "choose another name",
}


def advice(error: OSError, folder: Path) -> str:
    """What helps where a file could not be written into a folder: "(why): what to do"."""
    why = error.strerror or type(error).__name__
    helps = ADVICE.get(error.errno, "choose another name, or another folder")
    return f"({why}): {helps.format(shown(str(folder)))}"


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to be written; it is at `path` once the block is done.

    OSError, FileExistsError if there is one of that name, and whatever the block raises leave
    nothing behind.
    """
    remove_abandoned(path.parent)
    file = open_part(path.parent)
    part = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # still locked, so that nobody takes it for abandoned
                give_name(part, path)
        if fcntl is None:
            give_name(part, path)
    finally:
        with suppress(OSError):
            part.unlink()
    with suppress(OSError):
        sync_folder(path.parent)


def open_part(folder: Path) -> BinaryIO:
    """A new part, locked while it is open where the system has such locks."""
    while True:
        file = open(folder / f".{secrets.token_hex(8)}{PART}", "xb")  # noqa: SIM115
        try:
            lock(file)
            if os.path.exists(file.name):
                return file
        except BlockingIOError:
            pass
        file.close()  # taken for abandoned before it was locked


def lock(file: BinaryIO) -> bool:
    """Whether the file is now locked by this opening of it; BlockingIOError if by another."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some network file systems
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Removes the parts that no living process is writing."""
    with suppress(OSError):
        for part in folder.glob(f".*{PART}"):
            with suppress(OSError):
                remove_if_abandoned(part)


def remove_if_abandoned(part: Path) -> None:
    is_old = time.time() - part.stat().st_mtime > ABANDONED
    if fcntl is None:
        if is_old:
            part.unlink()
        return
    with open(part, "r+b") as file:  # under its lock, after which a writer looks if it is there
        if lock(file) or is_old:
            part.unlink()


def give_name(part: Path, path: Path) -> None:
    """The part under its final name, in one step; FileExistsError if that is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here, or no room, which the other way will say, too
        rename_to_new(part, path)


def rename_to_new(part: Path, path: Path) -> None:
    """As give_name, where there are no hard links: savers take turns, so that none overwrites."""
    with turn(path.parent):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(part, path)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, where it has one; Windows renames onto nothing anyway."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """The folder's list of names onto the disk, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
