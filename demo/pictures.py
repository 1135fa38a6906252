"""What an engine makes of one exemplar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STAGES = {
    "invert": "Inverting",
    "sample": "Sampling the variations",
    "reconstruct": "Reconstructing",
}


@dataclass(frozen=True)
class Pictures:
    """PNG files."""

    reconstruction: bytes
    variations: Sequence[bytes]

    def files(self, prefix: str) -> dict[str, bytes]:
        """By the names that they are written under."""
        files = {f"{prefix}reconstruction.png": self.reconstruction}
        return files | {
            f"{prefix}variation_{i + 1}.png": data for i, data in enumerate(self.variations)
        }
