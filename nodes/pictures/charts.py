"""Small line and bar charts over the steps of a chain, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFont

from .. import host

PAPER, INK, FAINT, GRID, BAND = "#faf9f6", "#202024", "#6a6a70", "#e2e0da", "#e9e7f0"
# Okabe and Ito's colours, which the colour-blind tell apart; yellow is too light for paper.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
TITLE_SIZE, TEXT_SIZE = 18, 14
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 56, 46  # around the plot itself
DECADES = 300  # on either side of 1, of a logarithmic axis at most: near a float's own end
FINE = 3  # curves are drawn this much larger and scaled down: Pillow's lines are not smooth


@dataclass(frozen=True)
class Curve:
    """A value at each of `steps`; `style` is line, dotted or bars."""

    steps: Sequence[float]
    values: Sequence[float]
    colour: str = COLOURS[0]
    style: str = "line"


@dataclass(frozen=True)
class Chart:
    """Curves over steps 0 to `last`. A reference is a dashed line, `band` a shaded range.

    legend: (words, colour, style) of each entry; the style "" shows words alone.
    """

    title: str
    last: int
    curves: Sequence[Curve]
    legend: Sequence[tuple[str, str, str]] = ()
    reference: float | None = None
    band: tuple[float, float] | None = None
    log: bool = False
    from_zero: bool = False

    def heights(self) -> list[float]:
        """Every finite number that must be inside."""
        values = [v for curve in self.curves for v in curve.values]
        values += [v for v in (self.reference, *(self.band or ())) if v is not None]
        return [v for v in values if math.isfinite(v) and (v > 0 or not self.log)]

    def range(self) -> tuple[float, float]:
        """The axis' ends: whole decades if it is logarithmic."""
        values = self.heights() or [1.0]
        low, high = min(values), max(values)
        if self.log:
            low, high = math.floor(math.log10(low) - 0.05), math.ceil(math.log10(high) + 0.05)
            return 10.0 ** max(low, -DECADES), 10.0 ** min(high, DECADES)
        low = 0.0 if self.from_zero else low
        margin = max(0.06 * (high - low), 0.05)
        return low - (0.0 if self.from_zero else margin), high + margin

    def ticks(self) -> list[tuple[float, str]]:
        low, high = self.range()
        if not self.log:
            values = round_numbers(low, high, 6, whole=self.from_zero)
            return [(v, f"{v:.10g}") for v in values]
        first, last = round(math.log10(low)), round(math.log10(high))
        skip = math.ceil((last - first) / 7)
        return [(10.0**n, f"1e{n}") for n in range(first, last + 1, skip)]


@dataclass(frozen=True)
class Frame:
    """Where the plot lies in its picture, and what a step and a value are there, in pixels."""

    chart: Chart
    width: int
    height: int

    def x(self, step: float) -> float:
        return (step + 0.5) / (self.chart.last + 1) * self.width

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The axis' ends, for which the chart looks at all of its values."""
        return self.chart.range()

    def y(self, value: float) -> float:
        """A value outside the axis is drawn at its end."""
        low, high = self.ends
        value = min(max(value, low), high)
        if self.chart.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (high - value) / (high - low) * self.height

    def fine(self) -> Frame:
        return Frame(self.chart, self.width * FINE, self.height * FINE)


def draw_chart(chart: Chart, size: tuple[int, int]) -> Image.Image:
    """The chart with its title, legend and axes, as a picture of this size."""
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    frame = Frame(chart, size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM)
    draw.text((LEFT, 2), chart.title, fill=INK, font=font(TITLE_SIZE))
    draw_legend(draw, chart, LEFT, 29)
    picture.paste(draw_plot(frame), (LEFT, TOP))
    face, bottom = font(TEXT_SIZE), TOP + frame.height
    for value, words in chart.ticks():
        draw.text((LEFT - 8, TOP + frame.y(value)), words, fill=FAINT, font=face, anchor="rm")
    for step in round_numbers(0, chart.last, 9, whole=True):
        place = (LEFT + frame.x(step), bottom + 5)
        draw.text(place, f"{step:.0f}", fill=FAINT, font=face, anchor="ma")
    middle = (LEFT + frame.width / 2, bottom + 24)
    draw.text(middle, "step: image on the left, noise on the right", FAINT, face, anchor="ma")
    return picture


def draw_plot(frame: Frame) -> Image.Image:
    """What is inside the axes: band, grid, reference, curves."""
    chart, fine = frame.chart, frame.fine()
    plot = Image.new("RGB", (fine.width, fine.height), "white")
    draw = ImageDraw.Draw(plot)
    if chart.band is not None:
        draw.rectangle((0, fine.y(chart.band[1]), fine.width, fine.y(chart.band[0])), fill=BAND)
    for value, _ in chart.ticks():
        draw.line((0, fine.y(value), fine.width, fine.y(value)), GRID, FINE)
    if chart.reference is not None:
        y = fine.y(chart.reference)
        for x in range(0, fine.width, 14 * FINE):
            draw.line((x, y, x + 8 * FINE, y), FAINT, 2 * FINE)
    for curve in chart.curves:
        host.stop_if_interrupted()
        draw_curve(draw, fine, curve)
    draw.rectangle((0, 0, fine.width - 1, fine.height - 1), outline=GRID, width=FINE)
    return plot.resize((frame.width, frame.height), Image.Resampling.LANCZOS)


def draw_curve(draw: ImageDraw.ImageDraw, fine: Frame, curve: Curve) -> None:
    pairs = zip(curve.steps, curve.values)
    points = [(fine.x(step), fine.y(value)) for step, value in pairs if math.isfinite(value)]
    if not points:
        return
    apart = fine.width / (fine.chart.last + 1)
    if curve.style == "bars":
        share = 0.36 if apart > 5 * FINE else 0.5  # no gaps that are narrower than a pixel
        half = min(share * apart, 14 * FINE)
        for x, y in points:
            draw.rectangle((x - half, y, x + half, fine.height), fill=curve.colour)
        return
    if curve.style == "dotted":
        dots = along(points, 7 * FINE)
        radius = 1.3 * FINE
    else:
        draw.line(points, fill=curve.colour, width=2 * FINE, joint="curve")
        dots = points if apart >= 9 * FINE else []
        radius = 3 * FINE
    for x, y in dots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=curve.colour)


def along(points: Sequence[tuple[float, float]], apart: float) -> list[tuple[float, float]]:
    """Points at equal distances along a line through these."""
    found, rest = list(points[:1]), apart
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        length, at = math.hypot(x1 - x0, y1 - y0), rest
        while at <= length:
            found.append((x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length))
            at += apart
        rest = at - length
    return found


def draw_legend(draw: ImageDraw.ImageDraw, chart: Chart, x: float, y: float) -> None:
    face, middle = font(TEXT_SIZE), y + 9
    for words, colour, style in chart.legend:
        if style == "line":
            draw.rectangle((x, middle - 1, x + 20, middle + 1), fill=colour)
        elif style == "bars":
            draw.rectangle((x + 6, middle - 5, x + 16, middle + 5), fill=colour)
        elif style:  # dotted or dashed
            apart, length = (6, 2) if style == "dotted" else (11, 8)
            for left in range(0, 20, apart):
                draw.rectangle((x + left, middle - 1, x + left + length, middle + 1), fill=colour)
        x += 26 if style else 0
        draw.text((x, middle), words, fill=FAINT, font=face, anchor="lm")
        x += face.getlength(words) + 16


def round_numbers(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    least = max((high - low) / most, 1.0 if whole else 1e-9)
    power = 10.0 ** math.floor(math.log10(least) + 1e-9)
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


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
