"""What templates are shown on: drawn scenes, masks and captions that the demo model knows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "demo"), str(REPO / "demo" / "model")]

from concept import draw as draw_flowers
from contact_sheet import INK, MARGIN, PAPER, TEXT_SIZE, font, wrap
from PIL import Image, ImageDraw
from render import render
from scenes import Attributes, Scene, caption, make_scene
from torch import Tensor

CELL, GAP, LINE = 176, 12, 21  # pixels
ROW = CELL + LINE + GAP // 2  # a photo and its label
MEGAPIXELS = 128**2 / 1024**2  # what the demo model was trained on
CFG = {5.0: 2.5, 7.0: 3.5, 15.0: 7.5}  # its colours run out of their range above


@dataclass(frozen=True)
class Photo:
    """A scene for a Load Image node; `hole` is a box (left, top, right, bottom) in 0..1.

    drawn: what makes pictures of scenes, [n, 3, h, w] in 0..1.
    """

    label: str
    seed: int
    attributes: Attributes
    hole: tuple[float, float, float, float] | None = None
    drawn: Callable[[Sequence[Scene]], Tensor] = render

    @property
    def picture(self) -> Image.Image:
        """The scene, clear where the hole is: Load Image's mask."""
        scene = make_scene(self.seed, self.attributes)
        pixels = (self.drawn([scene])[0] * 255).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels).convert("RGBA")
        if self.hole is not None:
            alpha = Image.new("L", image.size, 255)
            ImageDraw.Draw(alpha).rectangle([round(128 * side) for side in self.hole], fill=0)
            image.putalpha(alpha)
        return image

    @property
    def shown(self) -> Image.Image:
        """The scene, the hole drawn as a frame."""
        image = self.picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
        if self.hole is not None:
            box = [round(CELL * side) for side in self.hole]
            ImageDraw.Draw(image).rectangle(box, outline=(255, 255, 255), width=3)
            ImageDraw.Draw(image).rectangle(box, outline=INK, width=1)
        return image


@dataclass(frozen=True)
class Application:
    """A template's photos in the order of its Load Image nodes, and what its widgets become.

    texts: by the start of a prompt's title; `exemplar` is what the photo shows.
    """

    title: str
    photos: Sequence[Photo]
    texts: Mapping[str, str] = field(default_factory=dict)
    widgets: Mapping[tuple[str, int], object] = field(default_factory=dict)

    def files(self) -> dict[str, Image.Image]:
        return {f"photo_{i}.png": photo.picture for i, photo in enumerate(self.photos)}

    def fill(self, template: dict) -> dict:
        """The template on the demo model: only photos, prompts, size and guidance change."""
        files = iter(self.files())
        for node in template["nodes"]:
            values = node.get("widgets_values")
            if node["type"] == "LoadImage":
                values[0] = next(files)
            elif node["type"] == "CLIPTextEncode":
                values[0] = self.text(node["title"])
            elif node["type"] == "ImageScaleToTotalPixels":
                values[1] = MEGAPIXELS
            elif node["type"] == "RivalKSampler":
                values[1], values[2] = "fixed", CFG[values[2]]
            for (kind, place), value in self.widgets.items():
                if kind in (node["type"], node.get("title")):
                    values[place] = value
        return template

    def text(self, title: str) -> str:
        found = [text for start, text in self.texts.items() if title.startswith(start)]
        return found[0] if found else ""

    def sheet(self, results: Sequence[Image.Image]) -> Image.Image:
        """What went in, an arrow, what came out, in two rows; the title above."""
        columns = math.ceil(len(results) / 2)
        width = 2 * MARGIN + (1 + columns) * (CELL + GAP) + 3 * GAP
        lines = wrap(self.title, width - 2 * MARGIN, font(TEXT_SIZE))
        top = MARGIN // 2 + len(lines) * LINE + GAP
        rows = 2 if len(results) > 1 or len(self.photos) > 1 else 1
        page = Image.new("RGB", (width, top + rows * ROW + MARGIN // 2), PAPER)
        draw = ImageDraw.Draw(page)
        for i, line in enumerate(lines):
            draw.text((MARGIN, MARGIN // 2 + i * LINE), line, fill=INK, font=font(TEXT_SIZE))
        for i, photo in enumerate(self.photos):
            page.paste(photo.shown, (MARGIN, top + i * ROW))
            place = (MARGIN, top + i * ROW + CELL + GAP // 3)
            draw.text(place, photo.label, fill=INK, font=font(TEXT_SIZE))
        x, middle = MARGIN + CELL + GAP, top + CELL // 2
        draw.polygon([(x, middle - GAP), (x, middle + GAP), (x + 2 * GAP - 4, middle)], fill=INK)
        for i, result in enumerate(results):
            row, column = divmod(i, columns)
            height = min(CELL, round(CELL * result.height / result.width))
            fitted = result.resize((CELL, height), Image.Resampling.LANCZOS)
            left = x + 3 * GAP + column * (CELL + GAP)
            page.paste(fitted, (left, top + row * (CELL + GAP) + (CELL - height) // 2))
        return page


def said(*attributes) -> str:
    return caption(Attributes(*attributes))


def photo(seed: int, *attributes, label: str = "photo", hole=None, drawn=render) -> Photo:
    return Photo(label, 9_100_000_000 + seed, Attributes(*attributes), hole, drawn)


STARS = (3, "red", "star", "blue", "striped")
RINGS = (2, "purple", "ring", "yellow", "dotted")
DISC = (1, "white", "circle", "green", "plain")
FLOWER = (1, "red", "star", "green", "dotted")  # to a LoRA for which stars are flowers

STAR, CIRCLE = (1, "white", "star", "red", "striped"), (1, "white", "circle", "red", "striped")
BLUE_STAR = (1, "white", "star", "blue", "striped")

APPLICATIONS = {
    "variation": Application(
        "Four variations of a photo",
        [photo(3, *STARS)],
        {"Exemplar": said(*STARS), "Positive": said(*STARS)},
    ),
    "style_transfer": Application(
        "The photo's palette and texture on another subject: three purple squares",
        [photo(7, *RINGS)],
        {"Positive": said(3, "purple", "square", "yellow", "dotted")},
    ),
    "inpainting": Application(
        "A hole in a photo, filled four times",
        [photo(3, *STARS, hole=(0.12, 0.36, 0.52, 0.8))],
        {"Positive": said(*STARS)},
        {("GrowMask", 0): 0},
    ),
    "inpainting_by_example": Application(
        "A hole in one image, filled with the content of another",
        [photo(1, *DISC, label="image", hole=(0.05, 0.05, 0.55, 0.95)),
         photo(7, *RINGS, label="example")],
        {"Positive": said(*RINGS)},
    ),
    "two_photos": Application(
        "Two photos, each in its half",
        [photo(3, *STARS, label="left"), photo(7, *RINGS, label="right")],
        {},
        {("EmptyLatentImage", 0): 192, ("EmptyLatentImage", 1): 128},
    ),
    "close_variation": Application(
        "A close variation, of the framed subject only, on another background",
        [photo(5, *(1, "red", "ring", "blue", "plain"), hole=(0.03, 0.22, 0.63, 0.82))],
        {"Exemplar": said(1, "red", "ring", "blue", "plain"),
         "Positive": said(1, "red", "ring", "green", "striped")},
    ),
    "concept": Application(
        "A concept that only a LoRA knows, as it is in the photo (the prompt asks for two)",
        [photo(2, *FLOWER, drawn=draw_flowers)],
        {"Positive": said(2, *FLOWER[1:])},
    ),
    "controlnet": Application(
        "The photo's look on the layout of another image",
        [photo(7, *RINGS), photo(4, 3, "white", "square", "black", "plain", label="structure")],
        {"Positive": said(3, "purple", "square", "yellow", "dotted")},
    ),
    "high_resolution": Application(
        "A variation, drawn again at twice its size",
        [photo(3, *STARS)],
        {"Exemplar": said(*STARS), "Positive": said(*STARS)},
        {("ImageScaleToTotalPixels", 1): 0.01, ("KSampler", 3): 2.5},
    ),
    "edit_without_inversion": Application(
        "A star becomes a circle, without an inversion: four edits",
        [photo(11, *STAR)],
        {"Source": said(*STAR), "Target": said(*CIRCLE)},
        {("RivalEdit", 4): 3.5, ("RivalEdit", 5): 1.0},
    ),
    "edit_exact": Application(
        "A red photo becomes blue, from an exact inversion",
        [photo(11, *STAR)],
        {"Source": said(*STAR), "Target": said(*BLUE_STAR)},
    ),
    "edit_friendly": Application(
        "A star becomes a circle, with edit-friendly noise",
        [photo(11, *STAR)],
        {"Source": said(*STAR), "Target": said(*CIRCLE)},
        {("RivalInvert", 5): 1.75},
    ),
}
