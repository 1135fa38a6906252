"""The quality benchmark's pictures: a row for each method, or a row for each exemplar."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "demo"), str(REPO / "demo" / "model")]

from contact_sheet import INK, MARGIN, PAPER, TEXT_SIZE, font, wrap
from scenes import caption

EXEMPLARS, VARIATIONS = 5, 2  # at most that many are shown
CELL, GAP, BETWEEN = 112, 6, 22  # pixels
LABELS, LINE = 190, 21
EDIT, COLUMNS, SMALL = 116, 11, 16  # of edits: a cell's pixels, cells in a row, a label's line
MODELS = {"unet": "The UNet", "flow": "The flow model"}
ROWS, SIDE = 8, 160  # of a picture with a row for each exemplar, and a cell's pixels there


def sheet(scenes: Sequence, shown: Tensor, images: Mapping[str, Sequence[Tensor]]) -> Image.Image:
    """Exemplars above, then each method's variations of them; the captions head the columns."""
    scenes, columns = scenes[:EXEMPLARS], min(VARIATIONS, len(next(iter(images.values()))[0]))
    width = columns * (CELL + GAP) - GAP
    lefts = [MARGIN + LABELS + i * (width + BETWEEN) for i in range(len(scenes))]
    texts = [wrap(caption(scene.attributes), width, font(TEXT_SIZE)) for scene in scenes]
    top = MARGIN + max(map(len, texts)) * LINE + GAP
    height = top + (1 + len(images)) * (CELL + GAP) + MARGIN
    page = Image.new("RGB", (lefts[-1] + width + MARGIN, height), PAPER)
    draw = ImageDraw.Draw(page)
    for left, lines in zip(lefts, texts):
        write(draw, left, MARGIN, lines)
    rows = {"exemplar": [image[None] for image in shown], **images}
    for i, (name, pictures) in enumerate(rows.items()):
        y = top + i * (CELL + GAP)
        lines = wrap(name, LABELS - GAP, font(TEXT_SIZE))
        write(draw, MARGIN, y + (CELL - len(lines) * LINE) // 2, lines)
        for left, of_scene in zip(lefts, pictures):
            for j, image in enumerate(of_scene[:columns]):
                page.paste(to_image(image), (left + j * (CELL + GAP), y))
    return page


def rows(scenes: Sequence, shown: Tensor, rival: Sequence[Tensor], plain: Sequence[Tensor],
         captioned: bool = True) -> Image.Image:
    """A row for each exemplar: itself, RIVAL's variations [n, 3, h, w], and text-to-image's.

    captioned: whether they are made with the scene's caption, which is then written below.
    """
    prompt = "the same caption" if captioned else "an empty prompt"
    groups = {"exemplar": [image[None] for image in shown], f"{prompt}, with RIVAL": rival,
              f"{prompt} without it": plain}
    widths = [len(pictures[0]) * (SIDE + GAP) - GAP for pictures in groups.values()]
    lefts = [MARGIN + sum(widths[:i]) + i * BETWEEN for i in range(len(widths))]
    scenes, step = scenes[:ROWS], SIDE + LINE + BETWEEN
    size = lefts[-1] + widths[-1] + MARGIN, MARGIN + LINE + GAP + len(scenes) * step
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for (name, pictures), left in zip(groups.items(), lefts):
        write(draw, left, MARGIN - GAP, [name])
        for i, scene in enumerate(scenes):
            y = MARGIN + LINE + GAP + i * step
            for j, image in enumerate(pictures[i]):
                page.paste(to_image(image, SIDE), (left + j * (SIDE + GAP), y))
            if name == "exemplar" and captioned:
                write(draw, left, y + SIDE + GAP // 2, [caption(scene.attributes)])
    return page


def edits(sheets: Sequence[tuple[str, Mapping, Mapping]]) -> Image.Image:
    """The first photo, and what every method makes of it: (model, cases, outcomes) by change.

    But the first, plain sampling. Above each block stands the caption that the edit is to fit.
    """
    cells = [
        (f"{MODELS[model]}: {cases[change][0].task.target}",
         {"the photo": cases[change][0].shown,
          **{name: of_method[change][0].image for name, of_method in [*outcomes.items()][1:]}})
        for model, cases, outcomes in sheets for change in cases
    ]
    step, high = EDIT + GAP, EDIT + 2 * SMALL + GAP
    heights = [LINE + GAP + math.ceil(len(images) / COLUMNS) * high for _, images in cells]
    page = Image.new("RGB", (2 * MARGIN + COLUMNS * step - GAP, MARGIN + sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(page), MARGIN // 2
    for (title, images), height in zip(cells, heights):
        write(draw, MARGIN, top, [title])
        for i, (name, image) in enumerate(images.items()):
            row, column = divmod(i, COLUMNS)
            x, y = MARGIN + column * step, top + LINE + GAP + row * high
            page.paste(to_image(image, EDIT), (x, y))
            for j, line in enumerate(wrap(re.sub("[`*]", "", name), EDIT + GAP, font(SMALL - 3))):
                draw.text((x, y + EDIT + j * SMALL), line, fill=INK, font=font(SMALL - 3))
        top += height
    return page


def write(draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str]) -> None:
    for i, line in enumerate(lines):
        draw.text((x, y + i * LINE), line, fill=INK, font=font(TEXT_SIZE))


def to_image(image: Tensor, side: int = CELL) -> Image.Image:
    """[3, h, w] in 0..1, as large as a cell."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
