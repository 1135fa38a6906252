"""A batch as one picture: every image with its number and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .. import host
from .charts import COLOURS, FAINT, INK, PAPER, TEXT_SIZE, font

MARGIN, GAP = 12, 12
SHEET = 2048  # pixels that the cells' columns share
LARGEST, SMALLEST = 512, 96  # a cell's longer side
LINE = round(1.35 * TEXT_SIZE)
READABLE = 150  # a cell's width from which its scores are written below it


@dataclass(frozen=True)
class Grid:
    """Where the cells of a sheet lie, in pixels."""

    count: int
    columns: int
    cell: tuple[int, int]  # the picture's width and height
    below: int  # the height of the words

    @property
    def size(self) -> tuple[int, int]:
        rows = math.ceil(self.count / self.columns)
        width, height = self.cell[0], self.cell[1] + self.below
        return (2 * MARGIN + self.columns * (width + GAP) - GAP,
                2 * MARGIN + rows * (height + GAP) - GAP)

    def box(self, i: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of a picture."""
        (width, height), (row, column) = self.cell, divmod(i, self.columns)
        return (MARGIN + column * (width + GAP),
                MARGIN + row * (height + self.below + GAP), width, height)


def grid_of(count: int, size: tuple[int, int], lines: int) -> Grid:
    """As square a grid as there is, of cells in the images' shape (width, height)."""
    columns = math.ceil(math.sqrt(count))
    side = min(LARGEST, max(SMALLEST, SHEET // columns))
    scale = side / max(size)
    cell = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    written = 1 + (lines if cell[0] >= READABLE else 0)
    return Grid(count, columns, cell, written * LINE + 4)


def draw_sheet(
    grid: Grid,
    picture: Callable[[int], Image.Image],
    captions: Sequence[Sequence[str]],
    chosen: Sequence[int],
) -> Image.Image:
    """picture(i): the i-th. captions: its lines, of one count. chosen: numbers from 1."""
    sheet = Image.new("RGB", grid.size, PAPER)
    draw, face = ImageDraw.Draw(sheet), font(TEXT_SIZE)
    for i, lines in enumerate(captions):
        host.stop_if_interrupted()
        left, top, width, height = grid.box(i)
        sheet.paste(picture(i).resize(grid.cell, Image.Resampling.LANCZOS), (left, top))
        y = top + height + 4
        if i + 1 in chosen:
            draw.rectangle((left, top + height, left + width - 1, y + LINE), fill=COLOURS[0])
        words = f"{i + 1}  chosen" if i + 1 in chosen else f"{i + 1}"
        draw.text((left + 4, y), words, fill="white" if i + 1 in chosen else INK, font=face)
        for line in lines if width >= READABLE else ():
            y += LINE
            draw.text((left + 4, y), line, fill=FAINT, font=face)
    return sheet
