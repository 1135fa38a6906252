"""The seeded stand-in checkpoint, generated once and kept in `.cache/`. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path

from environment import SetupError

REPO = Path(__file__).resolve().parent.parent
CACHE = REPO / ".cache"
GENERATOR = REPO / "harness" / "checkpoints.py"
SOURCES = (GENERATOR, REPO / "harness" / "seeded.py")


def cached(python: Path, host, family: str = "sd15", seed: int = 0) -> Path:
    """The stand-in's file, made by this host's own model code if it is not there yet.

    The name holds a digest of the generator, so a changed one never meets an old file. Several
    processes may ask at once: each writes a file of its own and moves it into place whole.
    """
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:8]
    path = CACHE / f"standin-{family}-{seed}-{digest}.safetensors"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    command = [
        str(python),
        str(GENERATOR),
        "--host",
        str(host.path),
        "--family",
        family,
        "--out",
        str(partial),
        "--seed",
        str(seed),
    ]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            raise SetupError(f"the stand-in checkpoint could not be made ({reason})")
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path
