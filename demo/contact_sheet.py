"""One picture of a whole run: each exemplar, its reconstruction and its variations in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

LARGEST, SMALLEST = 384, 256  # a picture's longer side on the sheet
COLUMNS = 4  # of variations; more of them go on below
GAP, MARGIN, LABEL = 20, 36, 34
PAPER, INK, FAINT = (250, 249, 246), (32, 32, 36), (120, 120, 126)
NOTICE_PAPER, NOTICE_INK = (253, 236, 200), (110, 66, 0)
TITLE_SIZE, ROW_SIZE, TEXT_SIZE = 30, 20, 17
LINE = 1.45  # line height, of the text size


@dataclass(frozen=True)
class Text:
    """The words on a sheet; `notice`, if any, stands in a box of its own."""

    title: str
    details: str
    notice: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    exemplar: Image.Image
    reconstruction: Image.Image
    variations: Sequence[Image.Image]


def contact_sheet(rows: Sequence[Row], text: Text) -> Image.Image:
    """The words, then the rows one below the other."""
    columns = min(COLUMNS, max(len(row.variations) for row in rows))
    parts = [draw_row(row, columns) for row in rows]
    width = max(part.width for part in parts)
    parts.insert(0, draw_header(width, text))
    sheet = Image.new("RGB", (width, sum(part.height for part in parts) + MARGIN - GAP), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def draw_row(row: Row, columns: int) -> Image.Image:
    """The title, and below it the originals, then the variations."""
    width, height = cell_size(row.reconstruction.size)
    lines = math.ceil(len(row.variations) / columns)
    step_x, step_y = width + GAP, height + LABEL + GAP
    title_height = round(ROW_SIZE * 2 * LINE)
    room = 2 * MARGIN + (columns + 2) * step_x
    picture = Image.new("RGB", (room, title_height + lines * step_y), PAPER)
    draw = ImageDraw.Draw(picture)
    title = wrap(row.title, room - 2 * MARGIN, font(ROW_SIZE))[0]
    draw.text((MARGIN, GAP // 2), title, fill=INK, font=font(ROW_SIZE))
    cells = [(row.exemplar, "Exemplar", 0, 0), (row.reconstruction, "Reconstruction", 1, 0)]
    for i, variation in enumerate(row.variations):
        cells.append((variation, f"Variation {i + 1}", 2 + i % columns, i // columns))
    for image, label, column, line in cells:
        # One gap more after the originals sets them apart.
        x = MARGIN + column * step_x + (GAP if column > 1 else 0)
        draw_cell(picture, image, label, (x, title_height + line * step_y, width, height))
    return picture


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
    ImageDraw.Draw(sheet).text((x, y + height + 7), label, fill=INK, font=font(TEXT_SIZE))


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
