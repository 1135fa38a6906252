"""The square picture of a template: what went in beside what came out, without a word."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageOps

SIDE, SEAM = 512, 8  # pixels
HALF = (SIDE - SEAM) // 2
PAPER = (250, 249, 246)


def card(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Image.Image:
    """One photo: at the left, or the upper left of four; several: above."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    if len(before) > 1:
        row(page, 0, before)
        row(page, HALF + SEAM, after)
    elif len(after) == 1:
        halves(page, before[0], after[0])
    elif len(after) == 2:
        page.paste(ImageOps.fit(before[0], (HALF, SIDE)), (0, 0))
        for top, image in zip((0, HALF + SEAM), after):
            page.paste(ImageOps.fit(image, (HALF, HALF)), (HALF + SEAM, top))
    else:
        row(page, 0, [before[0], after[0]])
        row(page, HALF + SEAM, after[1:])
    return page


def row(page: Image.Image, top: int, images: Sequence[Image.Image]) -> None:
    """The first two, or one as wide as the page."""
    width = HALF if len(images) > 1 else SIDE
    for i, image in enumerate(images[:2]):
        page.paste(ImageOps.fit(image, (width, HALF)), (i * (HALF + SEAM), top))


def halves(page: Image.Image, before: Image.Image, after: Image.Image) -> None:
    """The same half of both, about where they differ most."""
    before, after = (ImageOps.fit(image, (SIDE, SIDE)) for image in (before, after))
    changed = ImageChops.difference(before, after).convert("L").resize((SIDE, 1), Image.BOX)
    weights = [value**2 for value in changed.getdata()]
    centre = sum(x * weight for x, weight in enumerate(weights)) / max(1, sum(weights))
    left = min(max(round(centre - HALF / 2), 0), SIDE - HALF)
    for i, image in enumerate((before, after)):
        page.paste(image.crop((left, 0, left + HALF, SIDE)), (i * (HALF + SEAM), 0))
