"""A chain as one picture: thumbnails from image to noise, residuals, calls, distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ...rival_core.chain.chain import Chain
from ...rival_core.chain.report import chain_notices, verdict
from ...rival_core.chain.statistics import (
    Moments,
    assumed,
    chance,
    map_spreads,
    measured,
    pair_gaps,
)
from .charts import COLOURS, FAINT, INK, PAPER, TEXT_SIZE, Chart, Curve, draw_chart, font, wrap

WIDTH, MARGIN, GAP = 1400, 36, 14
ROOM = WIDTH - 2 * MARGIN
CHART = ((ROOM - 2 * GAP) // 2, 300)
HEADING, BODY = 30, 17
LARGEST_THUMBNAIL, TALLEST_THUMBNAIL = 260, 300
WIDE = 1.8  # aspect from which thumbnails stand in two rows
NO_PREVIEW = (208, 208, 212)
NOTICE_PAPER, NOTICE_INK = (253, 236, 200), (110, 66, 0)
EXPLANATION = (
    "Mean and std are of each latent divided by sqrt(sigma_data^2 + sigma^2), of flow models as it "
    "is. Dashed: the Gaussian that plain sampling starts from; grey: what chance alone does at "
    "this size. Dotted: this image with Gaussian noise added up to each step, as in training. "
    "Solid away from dotted is the distribution gap. What the inversion lost of the image needs "
    "the model: see RIVAL Reconstruct."
)

Thumbnail = tuple[int, Image.Image | None]  # the level, and its picture if there is one


def draw_report(chain: Chain, thumbnails: Sequence[Thumbnail], note: str = "") -> Image.Image:
    """The whole picture, 1400 pixels wide. `note` says where the thumbnails come from."""
    how = f", inverted {verdict(chain)}" if verdict(chain) else ""
    title = f"RIVAL chain: {chain.model.family}, {counted(chain.steps, 'step')}{how}"
    parts = [
        draw_words(title, HEADING, INK),
        draw_words(details(chain), BODY, FAINT),
        *(draw_notice(notice) for notice in chain_notices(chain)),
        draw_strip(chain, thumbnails),
        *([draw_words(note, TEXT_SIZE, FAINT)] if note else []),
        draw_charts(chain),
        draw_words(EXPLANATION, 15, FAINT),
    ]
    height = sum(part.height + GAP for part in parts) - GAP + 2 * MARGIN
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    top = MARGIN
    for part in parts:
        picture.paste(part, (MARGIN, top))
        top += part.height + GAP
    return picture


def details(chain: Chain) -> str:
    """What a chain was made with, in one line."""
    channels, (height, width) = chain.latents.shape[1], chain.size
    return (
        f"schedule {chain.schedule} · solver {chain.solver.name} · cfg {chain.cfg:g} · latent "
        f"{width} x {height}, {channels} channels · sigma {float(chain.sigmas[0]):.3g} to "
        f"{chain.top:.4g} · {counted(chain.evaluations, 'model evaluation')}"
    )


def counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def shown_levels(chain: Chain) -> list[int]:
    """The levels that get a thumbnail, evenly spread, both ends among them."""
    columns, rows = grid(chain)
    count = min(columns * rows, chain.steps + 1)
    return [round(i * chain.steps / (count - 1)) for i in range(count)]


def grid(chain: Chain) -> tuple[int, int]:
    """Columns and rows of thumbnails: wide images get two rows, so as not to be too small."""
    height, width = chain.size
    return (5, 2) if width > WIDE * height else (8, 1)


def draw_words(text: str, size: int, colour: str) -> Image.Image:
    """A paragraph over the whole width."""
    face, line = font(size), round(1.4 * size)
    lines = wrap(text, ROOM, face)
    picture = Image.new("RGB", (ROOM, len(lines) * line), PAPER)
    draw = ImageDraw.Draw(picture)
    for i, words in enumerate(lines):
        draw.text((0, i * line), words, fill=colour, font=face)
    return picture


def draw_notice(text: str) -> Image.Image:
    """A sentence in a box of its own."""
    text = f"{text[:1].upper()}{text[1:]}."
    face, line = font(BODY), round(1.4 * BODY)
    lines = wrap(text, ROOM - 2 * GAP, face)
    picture = Image.new("RGB", (ROOM, len(lines) * line + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((0, 0, ROOM - 1, picture.height - 1), radius=8, fill=NOTICE_PAPER)
    for i, words in enumerate(lines):
        draw.text((GAP, GAP // 2 + i * line), words, fill=NOTICE_INK, font=face)
    return picture


def draw_strip(chain: Chain, thumbnails: Sequence[Thumbnail]) -> Image.Image:
    """The thumbnails, left to right, each with its step and sigma below."""
    columns = min(grid(chain)[0], len(thumbnails))
    rows = math.ceil(len(thumbnails) / columns)
    column = min((ROOM - (columns - 1) * GAP) // columns, LARGEST_THUMBNAIL)
    size = thumbnail_size(chain, column)
    label = 2 * round(1.35 * TEXT_SIZE) + 6
    strip = Image.new("RGB", (ROOM, rows * (size[1] + label) + (rows - 1) * GAP), PAPER)
    for i, (level, picture) in enumerate(thumbnails):
        x, y = i % columns * (column + GAP), i // columns * (size[1] + label + GAP)
        strip.paste(fitted(picture, size), (x, y))
        draw_label(ImageDraw.Draw(strip), chain, level, (x, y + size[1] + 5))
    return strip


def thumbnail_size(chain: Chain, width: int) -> tuple[int, int]:
    """The image's shape, as large as a column allows."""
    height, wide = chain.size
    scale = min(width / wide, TALLEST_THUMBNAIL / height)
    return max(1, round(wide * scale)), max(1, round(height * scale))


def fitted(picture: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    if picture is None:
        return Image.new("RGB", size, NO_PREVIEW)
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def draw_label(draw: ImageDraw.ImageDraw, chain: Chain, level: int, place: tuple) -> None:
    (x, y), face = place, font(TEXT_SIZE)
    name = {0: " (image)", chain.steps: " (noise)"}.get(level, "")
    draw.text((x, y), f"step {level}{name}", fill=INK, font=face)
    words = f"sigma {float(chain.sigmas[level]):.3g}"
    draw.text((x, y + round(1.35 * TEXT_SIZE)), words, fill=FAINT, font=face)


def draw_charts(chain: Chain) -> Image.Image:
    """Two by two: residuals and std above, calls and means below."""
    own, plain, (of_mean, of_std) = measured(chain), assumed(chain), chance(chain)
    charts = [
        residual_chart(chain),
        moment_chart("Standard deviation of each channel", chain, own, plain, 1, (1.0, of_std)),
        calls_chart(chain),
        moment_chart("Mean of each channel", chain, own, plain, 0, (0.0, of_mean)),
    ]
    picture = Image.new("RGB", (ROOM, 2 * CHART[1] + GAP), PAPER)
    for i, chart in enumerate(charts):
        place = (i % 2 * (CHART[0] + 2 * GAP), i // 2 * (CHART[1] + GAP))
        picture.paste(draw_chart(chart, CHART), place)
    return picture


def residual_chart(chain: Chain) -> Chart:
    """How well each step was solved; of ddim, of the only guess."""
    solver, steps = chain.solver, range(1, chain.steps + 1)
    if solver.scheme is not None:
        return scheme_chart(chain)
    if chain.residuals is None:
        return Chart("Residual: this chain holds none", chain.steps, (), log=True)
    curve = Curve(steps, chain.residuals.tolist())
    if not solver.iterates:
        words = f"{solver.name} guesses each step once and does not solve it: the guess's residual"
        return Chart("Relative residual", chain.steps, [curve], [(words, "", "")], log=True)
    above = len(chain.unsolved)
    words = f"above it at {above} of {chain.steps}" if above else "reached at every step"
    legend = [(f"tolerance {solver.tolerance:.0e}: {words}", FAINT, "dashed")]
    reference = solver.tolerance if solver.tolerance > 0 else None
    return Chart("Relative residual", chain.steps, [curve], legend, reference, log=True)


def scheme_chart(chain: Chain) -> Chart:
    """What a scheme, which solves nothing, left beside the latents, if anything."""
    name, steps = chain.solver.name, range(1, chain.steps + 1)
    if chain.partner is not None:
        legend = [("relative to the first; both are needed for the way back", "", "")]
        curve = Curve(steps, pair_gaps(chain))
        return Chart("Distance of the second latent", chain.steps, [curve], legend, log=True)
    if chain.noise is not None:
        legend = [("fresh noise would have 1", FAINT, "dashed")]
        curve = Curve(steps, map_spreads(chain))
        return Chart("Deviation of each noise map", chain.steps, [curve], legend, 1.0)
    return Chart(f"Residual: {name} has no step to solve", chain.steps, (), log=True)


def calls_chart(chain: Chain) -> Chart:
    """Model calls of each step."""
    calls = [1] * chain.steps if chain.calls is None else chain.calls.tolist()
    curve = Curve(range(1, chain.steps + 1), calls, style="bars")
    rows = "guided, so two evaluations a call" if chain.cfg != 1.0 else "one evaluation a call"
    legend = [(f"{counted(sum(calls), 'call')}, {rows}", COLOURS[0], "bars")]
    return Chart("Model calls", chain.steps, [curve], legend, from_zero=True)


def moment_chart(
    title: str, chain: Chain, own: Moments, plain: Moments, which: int,
    gaussian: tuple[float, float],
) -> Chart:
    """One moment of every channel over the levels, with what a Gaussian would have."""
    levels, channels = range(chain.steps + 1), chain.latents.shape[1]
    colours = [COLOURS[c % len(COLOURS)] for c in range(channels)]
    dotted = [Curve(levels, plain[which][:, c].tolist(), colours[c], "dotted")
              for c in range(channels)]
    solid = [Curve(levels, own[which][:, c].tolist(), colours[c]) for c in range(channels)]
    names = [(str(c), colours[c], "line") for c in range(channels)]
    legend = [
        *(names if channels <= len(COLOURS) else [(f"{channels} channels", INK, "line")]),
        ("image + noise", FAINT, "dotted"),
        (f"Gaussian: {gaussian[0]:g}", FAINT, "dashed"),
    ]
    band = (gaussian[0] - gaussian[1], gaussian[0] + gaussian[1])
    return Chart(title, chain.steps, [*dotted, *solid], legend, gaussian[0], band)
