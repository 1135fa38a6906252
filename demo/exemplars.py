"""What is varied: the user's picture, or scenes that the demo's models were never trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from errors import DemoError
from options import FLOW, UNET, Options, is_sdxl
from PIL import Image, ImageOps, UnidentifiedImageError

DEMO = Path(__file__).resolve().parent
PHOTO = DEMO / "photos" / "coffee.jpg"
PHOTO_PROMPT = "a cup of coffee on a wooden table"
SCENES = (5_000_000_133, 5_000_000_171, 5_000_000_124)  # seeds of held-out captions
MEGAPIXEL = 1024**2  # as ComfyUI counts
SD_MEGAPIXELS, SDXL_MEGAPIXELS = 0.25, 1.0
CFG = 5.0
MODEL_CFG = 2.5  # the UNet's colours run out of their range above it
MODEL_SIZE = 128  # sides of the pictures that the demo's models were trained on
PIXELS = {UNET: 8, FLOW: 16}  # that a picture's sides are whole numbers of


@dataclass(frozen=True)
class Exemplar:
    """A picture, what the new images are to show, and the size to work at."""

    name: str
    picture: Image.Image
    prompt: str
    megapixels: float
    cfg: float
    caption: str = ""  # what it is inverted with: what it shows, as far as that is known
    prefix: str = ""  # of its files' names


def read(options: Options) -> list[Exemplar]:
    if options.checkpoint is None and options.image is None:
        return [scene(seed, i + 1, options.prompt) for i, seed in enumerate(SCENES)]
    path = options.image or PHOTO
    caption = PHOTO_PROMPT if options.image is None else ""
    prompt = caption if options.prompt is None else options.prompt
    picture = read_photo(path)
    if options.checkpoint is None:
        return [fitted(path.name, picture, prompt, PIXELS[options.model])]
    megapixels = SDXL_MEGAPIXELS if is_sdxl(options.checkpoint) else SD_MEGAPIXELS
    return [Exemplar(path.name, picture, prompt, megapixels, CFG, caption)]


def scene(seed: int, number: int, prompt: str | None) -> Exemplar:
    """A drawn scene; its prompt is its caption unless there is another."""
    from render import render
    from scenes import caption, make_scene

    drawn = make_scene(seed)
    pixels = (render([drawn])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    shown = caption(drawn.attributes)
    picture = Image.fromarray(pixels)
    return Exemplar(
        f"Scene {number}",
        picture,
        shown if prompt is None else prompt,
        picture.width * picture.height / MEGAPIXEL,
        MODEL_CFG,
        shown,
        f"scene_{number}_",
    )


def fitted(name: str, picture: Image.Image, prompt: str, pixels: int) -> Exemplar:
    """The picture at the demo models' size, in sides that the model's latents fit."""
    scale = MODEL_SIZE / math.sqrt(picture.width * picture.height)
    sides = [max(1, round(side * scale / pixels)) * pixels for side in picture.size]
    small = ImageOps.fit(picture, tuple(sides), Image.Resampling.LANCZOS)
    return Exemplar(name, small, prompt, math.prod(sides) / MEGAPIXEL, MODEL_CFG)


def read_photo(path: Path) -> Image.Image:
    """The picture as it is meant to be seen, in RGB."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DemoError(f"{path} cannot be read as a picture: give a JPEG or PNG") from error
