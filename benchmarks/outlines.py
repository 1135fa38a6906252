"""How near the outlines of a picture's shapes are to those of their kind.

A judge calls a shape a square that has soft corners and bent sides. Here each shape is laid under
the kind's own, drawn where, as large and turned as it fits best: 1 is the same outline.
"""

from __future__ import annotations

import functools
import itertools
import math
from types import SimpleNamespace

import torch
from measures import overlap
from render import coverage
from scenes import Shape
from scipy import ndimage
from torch import Tensor

SMALLEST = 12  # pixels; less is a speck and no shape
MARGIN = 6  # pixels about a shape in which its kind's may lie
TURNS = 24  # of the kind's, tried first
REACH = 2.0, 2.0, 0.06, math.pi / 24  # x, y in pixels, radius in its own size, turn: tried next
ROUNDS = 4  # of ever smaller steps


def outline_fit(mask: Tensor, kind: str) -> float:
    """Intersection over union with the best fitting shapes of a kind; nan if there is no shape.

    mask: [h, w] bool. Over the mask's connected parts, each weighed by its pixels.
    """
    labels, count = ndimage.label(mask.numpy())
    parts = [torch.from_numpy(labels == number) for number in range(1, count + 1)]
    parts = [part for part in parts if part.sum() >= SMALLEST]
    if not parts:
        return math.nan
    sizes = torch.tensor([float(part.sum()) for part in parts])
    fits = torch.tensor([best_fit(part, kind) for part in parts])
    return float((fits * sizes).sum() / sizes.sum())


def best_fit(part: Tensor, kind: str) -> float:
    """Of one shape [h, w] bool: every turn at its middle and size, then small steps from there."""
    y, x = (places.float() + 0.5 for places in torch.nonzero(part, as_tuple=True))
    radius = math.sqrt(len(x) / _area(kind))
    turns = [math.tau * i / TURNS for i in range(TURNS)]
    best, shape = _best(part, kind, [(float(x.mean()), float(y.mean()), radius, turn)
                                     for turn in turns])
    for halved in range(ROUNDS):
        steps = [(-reach / 2**halved, 0.0, reach / 2**halved) for reach in REACH]
        near = [(shape[0] + dx, shape[1] + dy, shape[2] * (1 + grown), shape[3] + turn)
                for dx, dy, grown, turn in itertools.product(*steps)]
        best, shape = _best(part, kind, near)
    return best


def _best(part: Tensor, kind: str, shapes: list[tuple]) -> tuple[float, tuple]:
    """The best overlap of a shape with one of these (x, y, radius, turn), and which that is."""
    rows, columns = (slice(max(int(places.min()) - MARGIN, 0), int(places.max()) + MARGIN + 1)
                     for places in torch.nonzero(part, as_tuple=True))
    grid = torch.meshgrid(*(torch.arange(length) + 0.5 for length in part.shape), indexing="ij")
    y, x = (places[rows, columns] for places in grid)
    fits = overlap(_drawn(kind, shapes, x, y), part[rows, columns])
    return float(fits.max()), shapes[int(fits.argmax())]


def _drawn(kind: str, shapes: list[tuple], x: Tensor, y: Tensor) -> Tensor:
    scenes = [SimpleNamespace(layout=(Shape(*shape),)) for shape in shapes]
    return coverage(scenes, kind, x, y) > 0.5


@functools.cache
def _area(kind: str) -> float:
    """Of a shape of radius 1."""
    radius = 100
    y, x = torch.meshgrid(*2 * (torch.arange(2 * radius) + 0.5,), indexing="ij")
    return float(_drawn(kind, [(radius, radius, radius, 0.0)], x, y).sum()) / radius**2
