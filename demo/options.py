"""The demo's command line, and what its choices amount to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import DemoError

DEMO = Path(__file__).resolve().parent
STEPS = 20
SOLVER = {"solver": "anderson", "iterations": 10}  # with which that many bring the photo back
UNET, FLOW = "unet", "flow"
MODEL = FLOW  # of the demo's own two, unless the other is asked for
COMFYUI, DIFFUSERS = "comfyui", "diffusers"
LARGEST_HEADER = 100_000_000  # bytes; a longer one is no safetensors file


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise DemoError(f"{message} (python demo --help lists the options)")


@dataclass(frozen=True)
class Options:
    """What the user asked for. No image: three scenes, or with a checkpoint a cup of coffee.

    No checkpoint: one of the demo's own models. No prompt: the exemplar's own, if it has one. No
    engine: ComfyUI if there is one.
    """

    image: Path | None
    checkpoint: Path | None
    model: str
    variations: int
    prompt: str | None
    seed: int
    steps: int
    engine: str | None
    comfyui: Path | None
    output: Path


def parse(arguments: Sequence[str]) -> Options:
    """DemoError for anything that could not work."""
    given = _parser().parse_args(arguments)
    if given.engine == DIFFUSERS and given.checkpoint:
        raise DemoError("--checkpoint needs a ComfyUI: leave out --engine diffusers")
    if given.engine == DIFFUSERS and given.comfyui:
        raise DemoError("--engine diffusers uses no ComfyUI: leave out one of the two")
    if given.model and given.checkpoint:
        raise DemoError("--model names one of the demo's own: leave out it or --checkpoint")
    return Options(
        image=existing_file(given.image, "image") if given.image else None,
        checkpoint=existing_file(given.checkpoint, "checkpoint") if given.checkpoint else None,
        model=given.model or MODEL,
        variations=in_range("--variations", given.variations, 1, 64),
        prompt=given.prompt,
        seed=in_range("--seed", given.seed, 0, 2**64 - 1),
        steps=in_range("--steps", given.steps, 5, 400),
        engine=COMFYUI if given.comfyui else given.engine,
        comfyui=Path(given.comfyui).expanduser() if given.comfyui else None,
        output=Path(given.output).expanduser().resolve(),
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python demo",
        description="Makes variations of pictures with ComfyUI, or without where there is none.",
    )
    add = parser.add_argument
    add("--image", metavar="FILE", help="the photo (default: three drawn scenes)")
    add(
        "--checkpoint",
        metavar="FILE",
        help="an SD1.x, SD2 or SDXL checkpoint (default: one of the demo's own small models)",
    )
    add(
        "--model",
        choices=(UNET, FLOW),
        help=f"which of its own: of Stable Diffusion's kind or of Wan's (default: {MODEL})",
    )
    add("--variations", type=int, default=4, metavar="N", help="how many of each (default: 4)")
    add("--prompt", metavar="TEXT", help="what the new images show")
    add("--seed", type=int, default=0, metavar="N", help="other seeds, other variations")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"5 to 400 (default: {STEPS})")
    add(
        "--engine",
        choices=(COMFYUI, DIFFUSERS),
        help="what runs the demo's own model (default: ComfyUI if one is found or can be cloned)",
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
