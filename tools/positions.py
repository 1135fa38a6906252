"""Draws web/docs/positions.jpg: where the photo's tokens lie for attention. Needs Pillow alone.

    python tools/positions.py

A drawing, of no model's run: a photo and a new image of 6 x 6 tokens each, once for every choice of
RIVAL Patch Model's *positions*.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "demo")]

from contact_sheet import FAINT, INK, PAPER, font, wrap
from icon import CARDS, scene
from PIL import Image, ImageDraw

FILE = REPO / "web" / "docs" / "positions.jpg"
POSITIONS = ("beside", "shuffled", "same")
TOKENS, SIDE, GAP = 6, 30, 3  # tokens to a side of an image; pixels of one, and between two
EDGE, HEAD, LINE = 12, 44, 32  # pixels
TITLE, NOTE = 30, 25  # sizes of text
GRID = TOKENS * (SIDE + GAP)
WIDTH = 800  # twice a help panel's
QUERY = (1, 4)  # row and column of the token that is followed
EMPTY, MARK = (228, 226, 219), (209, 43, 66)
WORDS = {
    "beside": "The photo lies right of the new image. Nothing of it is at the marked token's own "
              "place: style comes without layout.",
    "shuffled": "The photo lies on the new image, its tokens in another order: the loosest.",
    "same": "The photo lies on the new image. The marked token reads what was at its own place: "
            "the layout comes along.",
}  # fmt: skip


def places(positions: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(Row and column of a token in the photo, those where it lies for the new image)."""
    tokens = [(row, column) for row in range(TOKENS) for column in range(TOKENS)]
    order = random.Random(0).sample(tokens, len(tokens)) if positions == "shuffled" else tokens
    for (row, column), (down, right) in zip(tokens, order):
        yield (row, column), (down, right + TOKENS * (positions == "beside"))


def photo() -> Image.Image:
    """A landscape as many pixels wide as the tokens, without the border of its card."""
    card = scene(*CARDS[0][2:]).convert("RGB")
    inner = card.crop(tuple(round(card.width * side) for side in (0.07, 0.07, 0.93, 0.93)))
    return inner.resize((TOKENS * SIDE, TOKENS * SIDE), Image.Resampling.LANCZOS)


def row(positions: str) -> Image.Image:
    """One choice: the grid of places, and what it means."""
    part = Image.new("RGB", (WIDTH, HEAD + GRID + 2 * EDGE), PAPER)
    draw, picture = ImageDraw.Draw(part), photo()
    draw.text((EDGE, EDGE // 2), positions, fill=INK, font=font(TITLE))
    corner = (EDGE, HEAD)
    for down in range(TOKENS):
        for right in range(TOKENS):
            draw.rectangle(box(corner, down, right), fill=EMPTY)
    for (y, x), (down, right) in places(positions):
        token = picture.crop((x * SIDE, y * SIDE, (x + 1) * SIDE, (y + 1) * SIDE))
        part.paste(token, box(corner, down, right)[:2])
    left, top, right, bottom = box(corner, *QUERY)
    draw.ellipse((left + 4, top + 4, right - 4, bottom - 4), outline=PAPER, width=7)
    draw.ellipse((left + 5, top + 5, right - 5, bottom - 5), outline=MARK, width=4)
    text = EDGE + GRID * (1 + (positions == "beside")) + 2 * EDGE
    for i, line in enumerate(wrap(WORDS[positions], WIDTH - text - EDGE, font(NOTE))):
        draw.text((text, HEAD + i * LINE), line, fill=FAINT, font=font(NOTE))
    return part


def box(corner: tuple[int, int], down: int, right: int) -> tuple[int, int, int, int]:
    left, top = corner[0] + right * (SIDE + GAP), corner[1] + down * (SIDE + GAP)
    return left, top, left + SIDE - 1, top + SIDE - 1


def page() -> Image.Image:
    rows = [row(positions) for positions in POSITIONS]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in rows)), PAPER)
    top = 0
    for part in rows:
        whole.paste(part, (0, top))
        top += part.height
    return whole


if __name__ == "__main__":
    page().save(FILE, quality=88, optimize=True, progressive=True)
    print(FILE)
