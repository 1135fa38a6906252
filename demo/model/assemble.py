"""The shipped parts and the seeded text encoder as one checkpoint, as ComfyUI's loaders take it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))

import generated

WEIGHTS = Path(__file__).with_name("weights")
TEXT_PREFIX = "cond_stage_model.transformer."
SOURCES = [
    Path(__file__),
    Path(__file__).with_name("clip.py"),
    generated.REPO / "harness" / "seeded.py",
]


class MissingWeights(RuntimeError):
    """The parts that belong to the repository are not there; the message says so."""


def parts() -> list[Path]:
    found = sorted(WEIGHTS.glob("part-*.safetensors"))
    if not found:
        raise MissingWeights(
            f"the demo model's weights are not in {WEIGHTS}: take the repository whole, or give "
            "--checkpoint FILE"
        )
    return found


def checkpoint() -> Path:
    """The one file, made if it is not there yet."""
    return generated.cached("demo-model", [*SOURCES, *parts()], _write)


def _write(path: Path) -> None:
    import export
    from clip import TextEncoder
    from safetensors.torch import save_file

    text = {TEXT_PREFIX + name: weight for name, weight in TextEncoder().weights().items()}
    save_file({**export.read(WEIGHTS), **text}, path)
