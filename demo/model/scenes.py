"""Procedural scenes whose content and style are known: what the demo model is trained on.

A scene is a handful of equal shapes on a textured background. Its caption names the count, the
two colours, the shape and the texture. What the caption leaves out (the exact shades, the
texture's period, angle and contrast, every position, size and rotation) is drawn from the seed.
The first of these are the scene's style, the rest its layout. Drawing is in `render.py`.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np

SIZE = 128  # pixels, each way
COUNTS = ("one", "two", "three")
KINDS = ("circle", "square", "triangle", "star", "ring")
TEXTURES = ("plain", "striped", "dotted", "checked", "shaded")
COLORS = {  # hue in turns, saturation, value
    "red": (0.99, 0.85, 0.85), "orange": (0.08, 0.90, 0.95), "yellow": (0.15, 0.80, 0.97),
    "green": (0.36, 0.75, 0.65), "blue": (0.60, 0.80, 0.85), "purple": (0.78, 0.65, 0.70),
    "white": (0.12, 0.04, 0.96), "black": (0.65, 0.20, 0.12),
}
SHADE_SPREAD = (0.02, 0.10, 0.07)  # how far a scene's shades stray from the named colours
MARGIN = 3  # pixels between two shapes, and between a shape and the edge


@dataclass(frozen=True)
class Attributes:
    """What a caption says."""

    count: int
    color: str
    kind: str
    background: str
    texture: str


@dataclass(frozen=True)
class Style:
    """What a caption leaves open, but every variation of a scene should keep."""

    color: tuple[float, float, float]  # of the shapes, RGB in 0..1
    background: tuple[float, float, float]
    second: tuple[float, float, float]  # the texture's other shade
    period: float  # pixels
    angle: float  # radians


@dataclass(frozen=True)
class Shape:
    """One shape's place, in pixels and radians; the radius reaches its outermost point."""

    x: float
    y: float
    radius: float
    rotation: float


@dataclass(frozen=True)
class Scene:
    seed: int
    attributes: Attributes
    style: Style
    layout: tuple[Shape, ...]
    size: int = SIZE  # pixels, the height
    ratio: int = 1  # of the width to it

    @property
    def width(self) -> int:
        return self.size * self.ratio


def make_scene(seed: int, attributes: Attributes | None = None, size: int = SIZE,
               ratio: int = 1) -> Scene:
    """The scene of this seed: always the same one, on every machine."""
    generator = np.random.default_rng(seed)
    drawn = _draw_attributes(generator)
    attributes = attributes or drawn
    style = _draw_style(generator, attributes)
    layout = _draw_layout(generator, attributes.count, size, ratio)
    return Scene(seed, attributes, style, layout, size, ratio)


def relayout(scene: Scene, seed: int) -> Scene:
    """The same content and style in another layout: what an ideal variation is."""
    generator = np.random.default_rng([seed, 1])
    return replace(scene, seed=seed, layout=_draw_layout(generator, scene.attributes.count,
                                                         scene.size, scene.ratio))


def caption(attributes: Attributes) -> str:
    """`three red stars on a blue striped background`."""
    a = attributes
    plural = "s" if a.count > 1 else ""
    return (f"{COUNTS[a.count - 1]} {a.color} {a.kind}{plural}"
            f" on a {a.background} {a.texture} background")


def all_attributes() -> list[Attributes]:
    """Every combination, in a fixed order; shapes never have their background's colour."""
    return [Attributes(count, color, kind, background, texture)
            for count in range(1, len(COUNTS) + 1) for color in COLORS for kind in KINDS
            for background in COLORS if background != color for texture in TEXTURES]


def _draw_attributes(generator: np.random.Generator) -> Attributes:
    color, background = generator.choice(list(COLORS), size=2, replace=False)
    count = int(generator.integers(1, len(COUNTS) + 1))
    kind, texture = generator.choice(KINDS), generator.choice(TEXTURES)
    return Attributes(count, str(color), str(kind), str(background), str(texture))


def _draw_style(generator: np.random.Generator, attributes: Attributes) -> Style:
    color, background = (_shade(generator, name)
                         for name in (attributes.color, attributes.background))
    change = float(generator.uniform(0.25, 0.45))
    bright = sum(background) / 3 > 0.5
    second = tuple(part * (1 - change) if bright else part + (1 - part) * change
                   for part in background)
    return Style(color, background, second, period=float(generator.uniform(28, 48)),
                 angle=float(generator.integers(8)) * math.pi / 8)


def _shade(generator: np.random.Generator, name: str) -> tuple[float, float, float]:
    hue, saturation, value = (COLORS[name] + generator.uniform(-1, 1, 3) * SHADE_SPREAD).tolist()
    return colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))


def _draw_layout(generator: np.random.Generator, count: int, size: int,
                 ratio: int) -> tuple[Shape, ...]:
    """Rejection sampling; shapes shrink a little at every miss, so that it always ends.

    In a picture of half the size they are more than half as large: still shapes, not specks.
    """
    radius = generator.uniform(0.9, 1.1) * 46 * math.sqrt(size / SIZE / (count + 0.6))
    shapes: list[Shape] = []
    while len(shapes) < count:
        reach = radius * generator.uniform(0.85, 1.0)
        x, y = (generator.uniform(reach + MARGIN, length - reach - MARGIN)
                for length in (size * ratio, size))
        if all(math.hypot(x - s.x, y - s.y) > reach + s.radius + MARGIN for s in shapes):
            shapes.append(Shape(x, y, float(reach),
                                float(generator.uniform(0, 2 * math.pi))))
        else:
            radius *= 0.985
    return tuple(shapes)
