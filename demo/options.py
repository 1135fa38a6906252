"""The demo's command line, and what its choices amount to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import DemoError

DEMO = Path(__file__).resolve().parent
PHOTO = DEMO / "photos" / "coffee.jpg"
PHOTO_PROMPT = "a cup of coffee on a wooden table"
STANDIN_STEPS, STEPS = 20, 50
STANDIN_MEGAPIXELS = 192 * 192 / 1024**2  # of ComfyUI's megapixels, which have 1024 x 1024 pixels
SD_MEGAPIXELS, SDXL_MEGAPIXELS = 0.25, 1.0
LARGEST_HEADER = 100_000_000  # bytes; a longer one is no safetensors file


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise DemoError(f"{message} (python demo --help lists the options)")


@dataclass(frozen=True)
class Options:
    """What the user asked for. No checkpoint means the stand-in."""

    image: Path
    checkpoint: Path | None
    variations: int
    prompt: str
    seed: int
    steps: int
    comfyui: Path | None
    output: Path

    @property
    def megapixels(self) -> float:
        if self.checkpoint is None:
            return STANDIN_MEGAPIXELS
        return SDXL_MEGAPIXELS if is_sdxl(self.checkpoint) else SD_MEGAPIXELS


def parse(arguments: Sequence[str]) -> Options:
    """DemoError for anything that could not work."""
    given = _parser().parse_args(arguments)
    image = existing_file(given.image, "image") if given.image else PHOTO
    checkpoint = existing_file(given.checkpoint, "checkpoint") if given.checkpoint else None
    prompt = given.prompt
    if prompt is None:
        prompt = PHOTO_PROMPT if image == PHOTO else ""
    return Options(
        image=image,
        checkpoint=checkpoint,
        variations=in_range("--variations", given.variations, 1, 64),
        prompt=prompt,
        seed=in_range("--seed", given.seed, 0, 2**64 - 1),
        steps=in_range("--steps", given.steps or (STEPS if checkpoint else STANDIN_STEPS), 5, 400),
        comfyui=Path(given.comfyui).expanduser() if given.comfyui else None,
        output=Path(given.output).expanduser().resolve(),
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python demo",
        description="Makes variations of a photo in a headless ComfyUI, from a fresh clone.",
    )
    add = parser.add_argument
    add("--image", metavar="FILE", help="the photo (default: a cup of coffee)")
    add(
        "--checkpoint",
        metavar="FILE",
        help="an SD1.x, SD2 or SDXL checkpoint (default: a stand-in with random weights)",
    )
    add("--variations", type=int, default=4, metavar="N", help="how many (default: 4)")
    add("--prompt", metavar="TEXT", help="what the new images show")
    add("--seed", type=int, default=0, metavar="N", help="other seeds, other variations")
    add(
        "--steps",
        type=int,
        metavar="N",
        help=f"5 to 400 (default: {STEPS}, or {STANDIN_STEPS} with the stand-in)",
    )
    add("--comfyui", metavar="FOLDER", help="the ComfyUI to use (default: found, else cloned)")
    add(
        "--output",
        metavar="FOLDER",
        default=str(DEMO / "output"),
        help="where the pictures go (default: demo/output)",
    )
    return parser


def existing_file(name: str, what: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise DemoError(f"there is no {what} file {name}")
    return path


def in_range(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise DemoError(f"{name} is {value}: give {low} to {high}")
    return value


def is_sdxl(checkpoint: Path) -> bool:
    """Whether a safetensors file has SDXL's text encoders; False for any other file."""
    with checkpoint.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if checkpoint.suffix != ".safetensors" or length > LARGEST_HEADER:
            return False
        try:
            names = json.loads(stream.read(length))
        except ValueError:
            return False
    return any(name.startswith("conditioner.embedders.") for name in names)
