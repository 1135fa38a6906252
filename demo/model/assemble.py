"""The shipped parts and the seeded text encoder as files that ComfyUI's loaders take.

The UNet's are one checkpoint. The flow model's are three: `flow_network` for UNETLoader,
`text_encoder` for CLIPLoader with type sd3, and `FLOW_AUTOENCODER` for VAELoader.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))

import generated

WEIGHTS = Path(__file__).with_name("weights")
TEXT_PREFIX = "cond_stage_model.transformer."
FLOW_AUTOENCODER = WEIGHTS / "flow-vae.safetensors"
SOURCES = [
    Path(__file__),
    Path(__file__).with_name("clip.py"),
    generated.REPO / "harness" / "seeded.py",
]


class MissingWeights(RuntimeError):
    """The parts that belong to the repository are not there; the message says so."""


def parts(folder: Path | None = None, pattern: str = "part-*.safetensors") -> list[Path]:
    """The files of a model, by default the UNet's, where they are shipped or in a folder."""
    folder = folder or WEIGHTS
    found = sorted(folder.glob(pattern))
    if not found:
        raise MissingWeights(
            f"the demo model's weights are not in {folder}: take the repository whole, or give "
            "--checkpoint FILE"
        )
    return found


def flow_parts(folder: Path | None = None) -> list[Path]:
    return parts(folder, "flow-[0-9]*.safetensors")


def checkpoint() -> Path:
    """The one file, made if it is not there yet."""
    return generated.cached("demo-model", [*SOURCES, *parts()], _write)


def flow_network() -> Path:
    """The flow model's network in one file, made if it is not there yet."""
    return generated.cached("demo-flow", [Path(__file__), *flow_parts()], _write_flow)


def text_encoder() -> Path:
    """The text encoder alone, made if it is not there yet."""
    return generated.cached("demo-text", SOURCES, _write_text)


def _write_flow(path: Path) -> None:
    import flow_file
    from safetensors.torch import save_file

    save_file(flow_file.read_parts(WEIGHTS), path)


def _write_text(path: Path) -> None:
    from clip import TextEncoder
    from safetensors.torch import save_file

    save_file(TextEncoder().weights(), path)


def _write(path: Path) -> None:
    import export
    from clip import TextEncoder
    from safetensors.torch import save_file

    text = {TEXT_PREFIX + name: weight for name, weight in TextEncoder().weights().items()}
    save_file({**export.read(WEIGHTS), **text}, path)
