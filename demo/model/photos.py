"""Crops of photographs for the autoencoder, beside scenes, so that a visitor's photo comes back.

The photos are those of `demo/photos`, and more from scikit-image's package if it is installed
where training runs; README.md lists them with their licences. Nothing else ever needs them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

SHIPPED = Path(__file__).resolve().parents[1] / "photos"
LIBRARY = ("astronaut.png", "camera.png", "brick.png", "grass.png", "gravel.png", "retina.jpg",
           "hubble_deep_field.jpg")
HELD_OUT = "rocket.jpg"  # to measure with, never trained on
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)  # a demo's photo is shrunk to 128 pixels or so
SMALLEST = 96  # pixels, of a photo's shorter side


def library() -> Path | None:
    """The folder of scikit-image's pictures, without importing it."""
    found = find_spec("skimage")
    return Path(found.origin).parent / "data" if found and found.origin else None


def read(path: Path, scale: float = 1.0) -> torch.Tensor:
    """[3, h, w] in 0..255."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    size = [round(scale * length) for length in picture.size]
    picture = picture.resize(size, Image.Resampling.LANCZOS) if scale != 1 else picture
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(size[1], size[0], 3).permute(2, 0, 1)


def training_photos() -> list[torch.Tensor]:
    """Every photo at every scale that leaves it large enough."""
    folder = library()
    paths = sorted(SHIPPED.glob("*.jpg")) + [folder / name for name in LIBRARY if folder]
    found = [read(path, scale) for path in paths for scale in SCALES]
    return [photo for photo in found if min(photo.shape[1:]) >= SMALLEST]


def crop(photos: list[torch.Tensor], size: int, generator: torch.Generator) -> torch.Tensor:
    """One random square, mirrored and its colours exchanged at random: [3, size, size] in 0..1."""
    photo = photos[draw(len(photos), generator)]
    top, left = (draw(length - size + 1, generator) for length in photo.shape[1:])
    square = photo[:, top:top + size, left:left + size].float() / 255
    if draw(2, generator):
        square = square.flip(2)
    if draw(2, generator):
        square = square[torch.randperm(3, generator=generator)]
    if draw(4, generator) == 0:
        square = 1 - square
    return square


def draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
