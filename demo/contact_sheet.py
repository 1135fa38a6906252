"""One picture of a whole run: the exemplar, its reconstruction and the variations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

LARGEST, SMALLEST = 448, 256  # a picture's longer side on the sheet
GAP, MARGIN, LABEL = 20, 36, 34
PAPER, INK, FAINT = (250, 249, 246), (32, 32, 36), (120, 120, 126)
NOTICE_PAPER, NOTICE_INK = (253, 236, 200), (110, 66, 0)
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 30, 17, 17
LINE = 1.45  # line height, of the text size


@dataclass(frozen=True)
class Text:
    """The words on a sheet; `notice`, if any, stands in a box of its own."""

    title: str
    details: str
    notice: str = ""


def contact_sheet(
    exemplar: Image.Image,
    reconstruction: Image.Image,
    variations: Sequence[Image.Image],
    text: Text,
) -> Image.Image:
    """The exemplar above its reconstruction, the variations in a block to their right."""
    width, height = cell_size(reconstruction.size)
    columns, rows = grid(len(variations))
    sheet_width = 2 * MARGIN + (columns + 1) * width + (columns + 1) * GAP
    header = draw_header(sheet_width, text)
    top = header.height
    sheet_height = top + rows * (height + LABEL + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAPER)
    sheet.paste(header, (0, 0))
    cells = [(exemplar, "Exemplar", 0, 0), (reconstruction, "Reconstruction", 0, 1)]
    for i, picture in enumerate(variations):
        cells.append((picture, f"Variation {i + 1}", 1 + i % columns, i // columns))
    for picture, label, column, row in cells:
        # One gap more after the first column sets the originals apart.
        x = MARGIN + column * (width + GAP) + (GAP if column else 0)
        y = top + row * (height + LABEL + GAP)
        draw_cell(sheet, picture, label, (x, y, width, height))
    return sheet


def grid(count: int) -> tuple[int, int]:
    """(columns, rows) for this many variations: at least the two rows beside the originals."""
    rows = max(2, math.floor(math.sqrt(count)))
    return math.ceil(count / rows), rows


def cell_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size on the sheet of pictures of this size; small ones are enlarged."""
    longer = max(size)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    return round(size[0] * scale), round(size[1] * scale)


def draw_cell(sheet: Image.Image, picture: Image.Image, label: str, box: tuple) -> None:
    """A picture, filling the box (sides of another shape are cut), with its label below."""
    x, y, width, height = box
    filled = ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    sheet.paste(filled, (x, y))
    ImageDraw.Draw(sheet).text((x, y + height + 7), label, fill=INK, font=font(LABEL_SIZE))


def draw_header(width: int, text: Text) -> Image.Image:
    """Title, details and notice, each wrapped to the sheet's width."""
    room = width - 2 * MARGIN
    details = wrap(text.details, room, font(TEXT_SIZE))
    notice = wrap(text.notice, room - 2 * GAP, font(TEXT_SIZE)) if text.notice else []
    line = round(TEXT_SIZE * LINE)
    notice_height = len(notice) * line + GAP if notice else 0
    details_top = MARGIN + round(TITLE_SIZE * LINE)
    notice_top = details_top + len(details) * line + GAP // 2
    header = Image.new("RGB", (width, notice_top + notice_height + GAP), PAPER)
    draw = ImageDraw.Draw(header)
    draw.text((MARGIN, MARGIN), text.title, fill=INK, font=font(TITLE_SIZE))
    for i, words in enumerate(details):
        draw.text((MARGIN, details_top + i * line), words, fill=FAINT, font=font(TEXT_SIZE))
    if notice:
        box = (MARGIN, notice_top, width - MARGIN, notice_top + notice_height)
        draw.rounded_rectangle(box, radius=8, fill=NOTICE_PAPER)
        for i, words in enumerate(notice):
            place = (MARGIN + GAP, notice_top + GAP // 2 + i * line)
            draw.text(place, words, fill=NOTICE_INK, font=font(TEXT_SIZE))
    return header


def wrap(text: str, width: int, face: ImageFont.ImageFont) -> list[str]:
    """The text in lines of at most this width; a word that is too long keeps a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def font(size: int) -> ImageFont.ImageFont:
    """Pillow's own typeface, so that nothing has to be installed."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):  # before Pillow 10.1, or built without FreeType
        return ImageFont.load_default()
