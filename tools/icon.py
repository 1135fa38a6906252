"""Draws docs/icon.png, the pack's picture in ComfyUI's registry. Needs Pillow alone.

    python tools/icon.py

A photo in front, and behind it two variations: the same things in other places, in its colours.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

FILE = Path(__file__).resolve().parent.parent / "docs" / "icon.png"
SIDE, FINER = 256, 4  # pixels; drawn finer, then scaled down
SKY, HILL, NEAR_HILL, SUN = "#f2c14e", "#2a6f77", "#174a52", "#d1495b"
PAPER, GROUND = "#fbfaf5", "#20242b"
CARD, BORDER = 132, 8
# (angle, centre of the card, centre of the sun, the hills' heights at five places)
CARDS = [
    (14, (162, 100), (34, 46), (60, 84, 66, 92, 70)),
    (-4, (126, 118), (88, 30), (88, 62, 76, 58, 84)),
    (-18, (92, 150), (72, 42), (76, 70, 92, 80, 62)),
]


def scene(sun: tuple[int, int], hills: tuple[int, ...]) -> Image.Image:
    """One landscape with its white border."""
    side = CARD * FINER
    picture = Image.new("RGBA", (side, side), SKY)
    pen = ImageDraw.Draw(picture)
    x, y = (FINER * place for place in sun)
    pen.ellipse((x - 17 * FINER, y - 17 * FINER, x + 17 * FINER, y + 17 * FINER), SUN)
    for lower, colour in ((0, HILL), (26, NEAR_HILL)):
        heights = hills if lower == 0 else hills[::-1]
        line = [(i * side // 4, (height + lower) * FINER) for i, height in enumerate(heights)]
        pen.polygon([*line, (side, side), (0, side)], colour)
    pen.rectangle((0, 0, side - 1, side - 1), outline=PAPER, width=BORDER * FINER)
    return picture


def icon() -> Image.Image:
    whole = Image.new("RGBA", (SIDE * FINER, SIDE * FINER), (0, 0, 0, 0))
    ground = (0, 0, SIDE * FINER - 1, SIDE * FINER - 1)
    ImageDraw.Draw(whole).rounded_rectangle(ground, 40 * FINER, GROUND)
    for angle, centre, sun, hills in CARDS:
        card = scene(sun, hills).rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        corner = [FINER * place - size // 2 for place, size in zip(centre, card.size)]
        whole.alpha_composite(card, tuple(corner))
    return whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(FILE, optimize=True)
    print(FILE)
