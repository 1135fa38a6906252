"""A batch as one picture: every image with its number and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .. import host
from .charts import COLOURS, FAINT, INK, PAPER, font

MARGIN, GAP = 12, 12
SHEET = 2048  # pixels that the cells share, along the longer side of each
LARGEST, USUAL, SMALLEST = 512, 192, 64  # a cell's longer side; only up to USUAL is it enlarged
TEXT, SMALLEST_TEXT = 12, 11  # how often the size of text goes into a cell's width; pixels
READABLE = 140  # a cell's width from which its scores are written below it


@dataclass(frozen=True)
class Grid:
    """Where the cells of a sheet lie, in pixels."""

    count: int
    columns: int
    cell: tuple[int, int]  # the picture's width and height
    lines: int  # of words below it

    @property
    def text(self) -> int:
        return max(SMALLEST_TEXT, self.cell[0] // TEXT)

    @property
    def line(self) -> int:
        return round(1.35 * self.text)

    @property
    def pitch(self) -> tuple[int, int]:
        """From one cell to the next."""
        return self.cell[0] + GAP, self.cell[1] + self.lines * self.line + GAP

    @property
    def size(self) -> tuple[int, int]:
        rows = math.ceil(self.count / self.columns)
        (width, height), margins = self.pitch, 2 * MARGIN - GAP
        return self.columns * width + margins, rows * height + margins

    def box(self, i: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of a picture."""
        row, column = divmod(i, self.columns)
        return MARGIN + column * self.pitch[0], MARGIN + row * self.pitch[1], *self.cell


def grid_of(count: int, size: tuple[int, int], lines: int) -> Grid:
    """As square a grid as there is, of cells in the images' shape (width, height)."""
    columns = math.ceil(math.sqrt(count))
    side = min(LARGEST, max(SMALLEST, SHEET // columns), max(USUAL, *size))
    scale = side / max(size)
    cell = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return Grid(count, columns, cell, 1 + (lines if cell[0] >= READABLE else 0))


def draw_sheet(
    grid: Grid,
    picture: Callable[[int], Image.Image],
    captions: Sequence[Sequence[str]],
    chosen: Sequence[int],
) -> Image.Image:
    """picture(i): the i-th. captions: its lines, of one count. chosen: numbers from 1."""
    sheet = Image.new("RGB", grid.size, PAPER)
    draw, face = ImageDraw.Draw(sheet), font(grid.text)
    for i, lines in enumerate(captions):
        host.stop_if_interrupted()
        left, top, width, height = grid.box(i)
        sheet.paste(picture(i).resize(grid.cell, Image.Resampling.LANCZOS), (left, top))
        top += height
        words, ink = f"{i + 1}", INK
        if i + 1 in chosen:
            draw.rectangle((left, top, left + width - 1, top + grid.line - 1), fill=COLOURS[0])
            words, ink = f"{i + 1}  chosen", "white"
        for line in (words, *lines)[: grid.lines]:
            draw.text((left + 3, top + grid.line // 2), line, fill=ink, font=face, anchor="lm")
            top, ink = top + grid.line, FAINT
    return sheet
