"""The quality benchmark's figures, as a table and as what they say for and against RIVAL."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import measures
import torch
from comfyui_rival.rival_core.choosing.measures import palette_distance
from judge import Judge, agreement
from outlines import outline_fit
from render import coverage
from torch import Tensor

# (figure, heading, decimals, which way is better: -1 down, 1 up, 0 neither by itself)
COLUMNS = (
    ("palette", "palette distance ↓", 1, -1),
    ("pattern", "texture distance ↓", 1, -1),
    ("texture", "texture named ↑", 0, 1),
    ("kind", "kind named ↑", 0, 1),
    ("count", "count named ↑", 0, 1),
    ("outline", "outline ↑", 2, 1),
    ("diversity", "diversity ↑", 2, 1),
    ("moved", "layout moved", 2, 0),
    ("copied", "pixels alike", 2, 0),
)
NEAREST = [name for name, *_, way in COLUMNS if way and name != "diversity"]
ABLATIONS = {  # what each part of RIVAL is for
    "RIVAL, no attention injection": ("pattern", "kind", "count", "texture"),
    "RIVAL, no normalisation": ("palette",),
    "RIVAL, start gaussian": ("palette",),
    "RIVAL, no shuffle": ("diversity",),
}
PLAIN, RIVAL = "text-to-image, same caption", "RIVAL"
Figures = dict[str, Tensor]  # each [scenes], the mean of a scene's variations


def measure(judge: Judge, scenes: Sequence, shown: Tensor, images: Sequence[Tensor]) -> Figures:
    """Of one method's variations [n, 3, h, w] of each scene, whose exemplars `shown` holds."""
    rows = [measure_scene(judge, *given) for given in zip(scenes, shown, images)]
    return {name: torch.tensor([row[name] for row in rows]) for name, *_ in COLUMNS}


def measure_scene(judge: Judge, scene, exemplar: Tensor, images: Tensor) -> dict[str, float]:
    masks, mask = foreground(scene, images), foreground(scene, exemplar[None])[0]
    named = agreement(judge, images, [scene.attributes] * len(images))
    found = {
        "palette": palette_distance(images, exemplar),
        "pattern": measures.texture_distance(images, masks, exemplar, mask),
        "moved": measures.layout_distance(masks, mask),
        "copied": measures.likeness(images, exemplar),
        "outline": torch.tensor([outline_fit(m, scene.attributes.kind) for m in masks]),
        **{name: 100 * right for name, right in named.items()},
    }
    means = {name: float(values.nanmean()) for name, values in found.items()}
    return {**means, "diversity": measures.layout_diversity(masks)}


def masks_overlap(scenes: Sequence, images: Tensor) -> float:
    """Of the foregrounds found in pictures [n, 3, h, w] of true scenes, with the true ones."""
    pixels = torch.arange(images.shape[-1]) + 0.5
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    found = []
    for scene, image in zip(scenes, images):
        true = coverage([scene], scene.attributes.kind, x, y)[0] > 0.5
        found.append(measures.overlap(foreground(scene, image[None])[0], true))
    return float(torch.stack(found).mean())


def foreground(scene, images: Tensor) -> Tensor:
    style = scene.style
    return measures.foreground(images, style.color, style.background, style.second)


# --- as text --------------------------------------------------------------------------------------


def heading(options: argparse.Namespace, accuracy: dict[str, Tensor], overlap: float) -> str:
    judged = len(next(iter(accuracy.values())))
    said = ", ".join(f"the {name} of {100 * float(right.mean()):.0f} %"
                     for name, right in accuracy.items())
    return (f"{options.scenes} scenes with {options.captions} captions, {options.variations} "
            f"variations of each by the {options.model} model, {options.steps} steps, cfg "
            f"{options.cfg:g}: mean ± standard error over scenes. On {judged} other true scenes "
            f"the judge is right about {said}; the shapes by which layouts are measured overlap "
            f"the true ones to {100 * overlap:.0f} %.")


def table(figures: dict[str, Figures]) -> str:
    """In Markdown, a row for each method."""
    lines = ["| | " + " | ".join(title for _, title, *_ in COLUMNS) + " |",
             "|---|" + "---|" * len(COLUMNS)]
    for method, found in figures.items():
        cells = (cell(found[name], decimals) for name, _, decimals, _ in COLUMNS)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(figures: dict[str, Figures], reference: str) -> str:
    """In Markdown: how far each other method is from the reference's figures, scene by scene."""
    lines = [f"| less {reference} | " + " | ".join(title for _, title, *_ in COLUMNS) + " |",
             "|---|" + "---|" * len(COLUMNS)]
    for method, found in figures.items():
        if method != reference:
            cells = (cell(found[name] - figures[reference][name], decimals + 1)
                     for name, _, decimals, _ in COLUMNS)
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: Tensor, decimals: int) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """And the standard error of that mean, which one value alone does not tell."""
    values = values[~values.isnan()].double()
    if not len(values):
        return math.nan, math.nan
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error


def reconstruction(back: Tensor, latents: Tensor, seen: Tensor, shown: Tensor) -> str:
    """What is left of the exemplars when their chains are walked back without guidance."""
    in_latents = torch.tensor([measures.psnr(x, true) for x, true in zip(back, latents)])
    in_pictures = torch.tensor([measures.psnr(x, true, 1.0) for x, true in zip(seen, shown)])
    return (f"Chains walked back: PSNR {cell(in_latents, 1)} dB in latents, "
            f"{cell(in_pictures, 1)} dB in pictures.")


# --- what it means --------------------------------------------------------------------------------


def claims(figures: dict[str, Figures], strengths: Sequence[float]) -> list[str]:
    """Whether each thing that RIVAL promises holds, by how much, scene against scene."""
    plain, ours = figures[PLAIN], figures[RIVAL]
    lines = ["RIVAL against text-to-image with the same caption:"]
    lines += [verdict(name, ours, plain) for name in NEAREST]
    lines.append("RIVAL's layouts against image-to-image at equal nearness:")
    for name in ("palette", "pattern"):
        lines.append(against_images(name, figures, strengths))
    for method, names in ABLATIONS.items():
        lines.append(f"RIVAL against {method}:")
        lines += [verdict(name, ours, figures[method]) for name in names]
    return lines


def verdict(name: str, ours: Figures, theirs: Figures) -> str:
    """Better or worse where the mean difference is above two of its standard errors."""
    (_, title, decimals, way), = (column for column in COLUMNS if column[0] == name)
    mean, error = mean_and_error(way * (ours[name] - theirs[name]))
    sure = abs(mean) > 2 * error
    word = ("better" if mean > 0 else "worse") if sure else "no clear difference"
    return f"- {title}: {word}, by {mean:.{decimals}f} ± {error:.{decimals}f}"


def against_images(name: str, figures: dict[str, Figures], strengths: Sequence[float]) -> str:
    """RIVAL's diversity beside that of the image-to-image whose figure `name` would equal RIVAL's.

    Between the strengths, and down to 0 where every figure is, both are interpolated.
    """
    curve = [(0.0, 0.0, 0.0)]
    curve += [(s, *(float(figures[f"image-to-image {s:g}"][key].nanmean())
                    for key in (name, "diversity"))) for s in sorted(strengths)]
    curve.append((1.0, *(float(figures[PLAIN][key].nanmean())
                         for key in (name, "diversity"))))
    near, ours = (float(figures[RIVAL][key].nanmean()) for key in (name, "diversity"))
    strength, theirs = at_nearness(curve, near)
    return (f"- equal {name} distance ({near:.1f}, strength {strength:.2f}): "
            f"{ours:.2f} against {theirs:.2f}")


def at_nearness(curve: Sequence[tuple[float, float, float]], near: float) -> tuple[float, float]:
    """(strength, diversity) where a curve of (strength, distance, diversity) first gets so far.

    A distance that it never reaches is that of its last point: nothing is more diverse there.
    """
    for (s, distance, diverse), (s2, distance2, diverse2) in zip(curve, curve[1:]):
        if distance <= near < distance2:
            share = (near - distance) / (distance2 - distance)
            return s + share * (s2 - s), diverse + share * (diverse2 - diverse)
    return curve[-1][0], curve[-1][2]
