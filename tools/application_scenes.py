"""What templates are shown on: drawn scenes, masks and captions that the demo model knows."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "demo"), str(REPO / "demo" / "model")]

from concept import draw as draw_flowers
from help_graphs import pulled
from options import FLOW, UNET
from PIL import Image, ImageDraw
from render import render
from scenes import Attributes, Scene, caption, make_scene
from torch import Tensor

CELL, INK = 256, (32, 32, 36)  # pixels of a photo as it is shown; a hole's frame
MEGAPIXELS = 128**2 / 1024**2  # what the demo model was trained on
CFG = {5.0: 2.5, 7.0: 3.5, 15.0: 7.5}  # its colours run out of their range above


@dataclass(frozen=True)
class Photo:
    """A scene for a Load Image node; `hole` is a box (left, top, right, bottom) in 0..1.

    drawn: what makes pictures of scenes, [n, 3, h, w] in 0..1.
    """

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

    texts: by the start of a prompt's title. For the card of a model that is too large: another
    `template`, that the demo model runs, and what its graph, in API format, becomes.
    model: which of the demo's.
    """

    photos: Sequence[Photo]
    texts: Mapping[str, str] = field(default_factory=dict)
    widgets: Mapping[tuple[str, int], object] = field(default_factory=dict)
    template: str | None = None
    rewire: Callable[[dict], dict] = copy.copy
    model: str = UNET

    def by(self, model: str | None) -> Application:
        """By this model, if it is one."""
        return replace(self, model=model or self.model)

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


def said(*attributes) -> str:
    return caption(Attributes(*attributes))


def photo(seed: int, *attributes, hole=None, drawn=render) -> Photo:
    return Photo(9_100_000_000 + seed, Attributes(*attributes), hole, drawn)


STARS = (3, "red", "star", "blue", "striped")
RINGS = (2, "purple", "ring", "yellow", "dotted")
SQUARE = (1, "orange", "square", "purple", "dotted")
DISC = (1, "white", "circle", "green", "plain")
FLOWER = (1, "red", "star", "green", "dotted")  # to a LoRA for which stars are flowers

STAR, CIRCLE = (1, "white", "star", "red", "striped"), (1, "white", "circle", "red", "striped")
BLUE_STAR = (1, "white", "star", "blue", "striped")

RED_RING, ON_GREEN = (1, "red", "ring", "blue", "plain"), (1, "red", "ring", "green", "striped")
SQUARES = (3, "purple", "square", "yellow", "dotted")
SHOWN, NEW, BECOMES = "What the photo shows", "What the new images show", "What it should become"


def variation(scene: Photo, *attributes, **more) -> Application:
    return Application([scene], {"What the": said(*attributes)}, **more)


def edit(*becomes, **more) -> Application:
    return Application([photo(11, *STAR)], {SHOWN: said(*STAR), BECOMES: said(*becomes)}, **more)


VARIATION, EDIT = "1 Variation of a photo", "6 Edit by words"
STAR_BECOMES_CIRCLE = edit(*CIRCLE, widgets={
    (SHOWN, 0): said(*STAR), ("RivalBlendedGuidance", 2): said(*STAR),
    ("RivalBlendedGuidance", 3): "star",
})
APPLICATIONS = {
    VARIATION: variation(photo(3, *STARS), *STARS, model=FLOW),
    "2 Choose a variation and enlarge it": variation(
        photo(6, *SQUARE), *SQUARE,
        widgets={("ImageScaleToTotalPixels", 1): 0.01, ("KSampler", 3): 2.5},
    ),
    "2 Close variation of the subject": Application(
        [photo(5, *RED_RING, hole=(0.03, 0.22, 0.63, 0.82))],
        {SHOWN: said(*RED_RING), NEW: said(*ON_GREEN)},
    ),
    "2 High resolution variation": variation(
        photo(3, *STARS), *STARS,
        widgets={("ImageScaleToTotalPixels", 1): 0.01, ("KSampler", 3): 2.5},
    ),
    "3 Style of a photo": Application([photo(7, *RINGS)], {NEW: said(*SQUARES)}),
    "3 Style on a layout (ControlNet)": Application(
        [photo(7, *RINGS), photo(4, 3, "white", "square", "black", "plain")],
        {NEW: said(*SQUARES)},
    ),
    "3 Style on a picture (img2img)": Application(
        [photo(7, *RINGS), photo(4, 3, "white", "square", "black", "plain")],
        {"What the picture shows": said(*SQUARES)},
    ),
    "3 Style with a concept (LoRA)": Application(
        [photo(2, *FLOWER, drawn=draw_flowers)], {NEW: said(2, *FLOWER[1:])}
    ),
    "4 Photos from a folder": Application([photo(7, *RINGS), photo(3, *STARS)]),
    "4 Photos, two in one image": Application(
        [photo(3, *STARS), photo(7, *RINGS)], {},
        {("EmptyLatentImage", 0): 192, ("EmptyLatentImage", 1): 128},
    ),
    "5 Inpaint a photo": Application(
        [photo(3, *STARS, hole=(0.12, 0.36, 0.52, 0.8))],
        {"What fills": said(*STARS)},
        {("GrowMask", 0): 0},
    ),
    "5 Inpaint by example": Application(
        [photo(1, *DISC, hole=(0.05, 0.05, 0.55, 0.95)), photo(7, *RINGS)],
        {"What fills": said(*RINGS)},
    ),
    EDIT: STAR_BECOMES_CIRCLE,
    "6 Edit by two prompts (no inversion)": edit(
        *CIRCLE, widgets={("RivalEdit", 4): 3.5, ("RivalEdit", 5): 1.0}, model=FLOW
    ),
    "6 Edit exactly": edit(*BLUE_STAR),
    "6 Edit in several ways (edit-friendly)": edit(*CIRCLE, widgets={("RivalInvert", 5): 1.75}),
    "7 Library of chains": variation(photo(9, *DISC), *DISC, template=VARIATION, model=FLOW),
    "7 Reconstruct a photo": variation(photo(7, *RINGS), *RINGS, model=FLOW),
}
LARGE = {  # models that the demo model stands in for, each with a scene of its own
    "1 Variation of a photo (SDXL)": (2, "orange", "square", "green", "checked"),
    "1 Variation of a photo (SD3.5)": (2, "white", "triangle", "purple", "striped"),
    "1 Variation of a photo (Flux)": (1, "yellow", "star", "blue", "shaded"),
    "1 Variation of a photo (Flux.2)": (3, "blue", "circle", "orange", "plain"),
    "1 Variation of a photo (Z-Image)": (2, "green", "star", "white", "dotted"),
    "1 Variation of a photo (Qwen-Image)": (3, "purple", "square", "yellow", "striped"),
    "1 Variation, few steps (SDXL Turbo)": (1, "red", "circle", "white", "checked"),
    "1 Variation, few steps (Z-Image Turbo)": (2, "yellow", "ring", "purple", "plain"),
}
APPLICATIONS |= {
    name: variation(photo(20 + i, *attributes), *attributes, template=VARIATION, model=FLOW)
    for i, (name, attributes) in enumerate(LARGE.items())
}
APPLICATIONS |= {
    "6 Edit by words (Z-Image)": replace(
        STAR_BECOMES_CIRCLE, photos=[photo(12, *STAR)], template=EDIT
    ),
    "6 Edit held by the photo (Flux)": replace(
        STAR_BECOMES_CIRCLE, photos=[photo(13, *STAR)], template=EDIT, rewire=pulled
    ),
}
