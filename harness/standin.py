"""Seeded stand-ins for trained files. Standard library only."""

from __future__ import annotations

import subprocess
from pathlib import Path

import generated
from environment import SetupError

GENERATOR = generated.REPO / "harness" / "checkpoints.py"
SOURCES = [GENERATOR.with_name(f"{name}.py")
           for name in ("checkpoints", "unets", "text_encoders", "adapters", "seeded")]


def cached(python: Path, host, family: str = "sd15", seed: int = 0) -> Path:
    """A file of checkpoints.py, made by this host's own model code if it is not there yet."""

    def make(path: Path) -> None:
        command = [
            *(str(python), str(GENERATOR), "--host", str(host.path), "--family", family),
            *("--out", str(path), "--seed", str(seed)),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            raise SetupError(f"the {family} stand-in could not be made ({reason})")

    return generated.cached(f"standin-{family}-{seed}", SOURCES, make)
