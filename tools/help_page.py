"""What a picture of a help page is made of, and how it is drawn: for a panel of 400 pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "demo")]

from application_scenes import Application
from contact_sheet import FAINT, INK, PAPER, font, wrap
from PIL import Image, ImageChops, ImageDraw

COLUMNS, CELL, GAP, EDGE = 3, 256, 12, 4  # pixels, twice those of the panel
WIDTH = COLUMNS * CELL + (COLUMNS - 1) * GAP + 2 * EDGE
TITLE, LABEL, NOTE, LEADING = 32, 27, 25, 1.3  # sizes of text, and the lines' height
AMPLIFIED = 4  # a difference is drawn this many times as large


WHOLE = None  # of a picture: a piece of the size that it has


@dataclass(frozen=True)
class Cell:
    """One run of the graph.

    changes: by (a node's type or title, input's name), on top of the picture's own. output: the
    node that shows the result, "" for the photo as it went in. difference: from the picture's
    `reference`, amplified. measured: what RIVAL Reconstruct says of the run goes below the label.
    """

    label: str
    changes: Mapping[tuple[str, str], object] = field(default_factory=dict)
    output: str = "SaveImage"
    difference: bool = False
    measured: bool = False


@dataclass(frozen=True)
class Row:
    """Up to three runs; beside fewer of them there is room for a note."""

    title: str
    cells: Sequence[Cell]
    note: str = ""


@dataclass(frozen=True)
class HelpPicture:
    """A template on one photo with one seed.

    rewire: changes the graph, in API format. reference: what differences are from. pieces: boxes
    (left, top, right, bottom) of the last row's wide result, to stand below each other in place of
    it; WHOLE is all of it.
    """

    template: str
    application: Application
    rows: Sequence[Row]
    changes: Mapping[tuple[str, str], object] = field(default_factory=dict)
    rewire: Callable[[dict], dict] | None = None
    reference: Cell | None = None
    pieces: Sequence[tuple[int, int, int, int] | None] = ()


@dataclass(frozen=True)
class Result:
    """What a cell has to show."""

    image: Image.Image
    label: str


def amplified(image: Image.Image, reference: Image.Image) -> Image.Image:
    """How far an image is from another of its size, in each channel."""
    difference = ImageChops.difference(image, reference)
    return difference.point(lambda level: min(255, AMPLIFIED * level))


def page(rows: Sequence[tuple[Row, Sequence[Result]]], pieces: Sequence = ()) -> Image.Image:
    """The rows, one below the other; of the last one the pieces, if there are any."""
    drawn = rows[:-1] if pieces else rows
    last = cut(rows[-1][1][0].image, pieces) if pieces else []
    return stacked([*(draw_row(row, results) for row, results in drawn), *last])


def cut(image: Image.Image, boxes: Sequence) -> list[Image.Image]:
    """The pieces of a wide picture, as wide as the page."""
    parts = []
    for box in boxes:
        piece = image.crop(box)
        size = (WIDTH, round(piece.height * WIDTH / piece.width))
        parts.append(piece.resize(size, Image.Resampling.LANCZOS))
    return parts


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + EDGE), PAPER)
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def draw_row(row: Row, results: Sequence[Result]) -> Image.Image:
    """The title, the cells with their labels below, the note beside."""
    labels = [result.label.split("\n") for result in results]
    head = round(TITLE * LEADING) + EDGE if row.title else EDGE
    foot = max(map(len, labels)) * round(LABEL * LEADING) + GAP
    part = Image.new("RGB", (WIDTH, head + CELL + foot), PAPER)
    draw = ImageDraw.Draw(part)
    draw.text((EDGE, EDGE), row.title, fill=INK, font=font(TITLE))
    for i, (result, lines) in enumerate(zip(results, labels)):
        left = EDGE + i * (CELL + GAP)
        fitted = result.image.resize((CELL, CELL), Image.Resampling.LANCZOS)
        part.paste(fitted, (left, head))
        write(draw, (left, head + CELL + 2), lines, LABEL, INK)
    if row.note:
        left = EDGE + len(results) * (CELL + GAP) + GAP
        lines = wrap(row.note, WIDTH - left - EDGE, font(NOTE))
        write(draw, (left, head), lines, NOTE, FAINT)
    return part


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], size: int,
          ink: tuple[int, int, int]) -> None:
    for i, line in enumerate(lines):
        draw.text((place[0], place[1] + i * round(size * LEADING)), line, fill=ink,
                  font=font(size))
