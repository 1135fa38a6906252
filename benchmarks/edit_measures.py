"""Whether an edit did what it was asked for, and how far it moved the rest: on drawn scenes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from statistics import mean

import torch
from edit_methods import Task
from judge import FOLDER, Judge, agreement, trained_judge
from measures import oklab
from quality import FIRST_SEED, choose_scenes
from render import coverage, render
from scenes import COLORS, Scene
from torch import Tensor
from torch.nn.functional import max_pool2d

COLOR, KIND = "colour", "kind"
FIRST_JUDGED = FIRST_SEED + 10**6  # scenes on which the judge is judged
NEAR = 4  # pixels about the shapes that are not yet the rest


@dataclass(frozen=True)
class Case:
    """A photo, and what it is to become."""

    scene: Scene
    changed: Scene  # as a perfect edit draws it
    task: Task
    shown: Tensor  # [3, h, w] in 0..1, the photo as the autoencoder gives it


def middle(color: str) -> tuple[float, float, float]:
    """A named colour without the spread that scenes have, RGB in 0..1."""
    return hsv_to_rgb(*COLORS[color])


def seen(change: str, cases: Sequence[Case], images: Sequence[Tensor]) -> list[str]:
    """How many are as asked for, how far a colour is off, how far the rest moved: in words."""
    moved = f"{mean(rest(case, image) for case, image in zip(cases, images)):.1f}"
    if change == KIND:
        return [f"{kinds(cases, images)} of {len(cases)}", moved]
    wanted = [case.changed.attributes.color for case in cases]
    colors = [mean_color(case, image) for case, image in zip(cases, images)]
    done = sum(nearest(color) == name for color, name in zip(colors, wanted))
    off = mean(distance(color, name) for color, name in zip(colors, wanted))
    return [f"{done} of {len(cases)}", f"{off:.0f}", moved]


def rest(case, image: Tensor) -> float:
    """How far what lies outside the shapes, old and new, moved: the mean, in levels of 255."""
    shapes = torch.maximum(cover(case.scene), cover(case.changed))
    near = max_pool2d(shapes[None], 2 * NEAR + 1, 1, NEAR)[0] > 0
    return 255 * float((image - case.shown).abs()[:, ~near].mean())


def mean_color(case, image: Tensor) -> Tensor:
    """Of what the photo's shapes cover whole, edges left out, in Oklab times 100, [3]."""
    inside = -max_pool2d(-cover(case.scene)[None], 5, 1, 2)[0] > 0.99
    return oklab(image[None])[0][:, inside].mean(1)


def nearest(color: Tensor) -> str:
    return min(COLORS, key=lambda name: distance(color, name))


def distance(color: Tensor, name: str) -> float:
    """From a named colour; 2 is just visible."""
    named = oklab(torch.tensor(middle(name))[None, :, None, None])
    return float((color - named[0, :, 0, 0]).norm())


def cover(scene) -> Tensor:
    size = torch.arange(scene.size) + 0.5
    y, x = torch.meshgrid(size, size, indexing="ij")
    return coverage([scene], scene.attributes.kind, x, y)[0]


def kinds(cases: Sequence, images: Sequence[Tensor]) -> int:
    """How many the judge takes for what they should be."""
    said = agreement(judge(), torch.stack(list(images)), [c.changed.attributes for c in cases])
    return int(said["kind"].sum())


def right(through: Callable[[Tensor], Tensor]) -> int:
    """Of a hundred true scenes through an autoencoder, those whose kind the judge names."""
    scenes = choose_scenes(100, "held-out", FIRST_JUDGED)
    images = torch.cat([through(render(scenes[i:i + 20])) for i in range(0, len(scenes), 20)])
    said = agreement(judge(), images, [scene.attributes for scene in scenes])
    return int(said["kind"].sum())


@functools.cache
def judge() -> Judge:
    """Of the flow model's autoencoder, as benchmarks/quality.py trains and keeps it."""
    import second_engine

    autoencoder = second_engine.FlowModel().autoencoder()

    @torch.no_grad()
    def through(images: Tensor) -> Tensor:
        parts = images.split(16)
        return torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in parts])

    with torch.inference_mode(False):
        return trained_judge(through, FOLDER, second_engine.digest(autoencoder))
