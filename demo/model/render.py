"""Draws scenes as images, many at once, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter

import torch
from scenes import COUNTS, KINDS, TEXTURES, Scene

SHADES = attrgetter("color"), attrgetter("background"), attrgetter("second")
CHUNK = 32  # scenes at a time: what fits a processor's cache is drawn several times faster


def render(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> torch.Tensor:
    """RGB in 0..1, [n, 3, size, width]; edges are soft over one pixel. All scenes have one size."""
    chunks = [scenes[i:i + CHUNK] for i in range(0, len(scenes), CHUNK)]
    return torch.cat([_render(chunk, device) for chunk in chunks])


def _render(scenes: Sequence[Scene], device: torch.device | str) -> torch.Tensor:
    y, x = torch.meshgrid(*(torch.arange(length, device=device) + 0.5
                            for length in (scenes[0].size, scenes[0].width)), indexing="ij")
    cover, share = (part[:, None] for part in layers(scenes, x, y))
    color, first, second = (_column([shade(scene.style) for scene in scenes], x)
                            for shade in SHADES)
    images = first + (second - first) * share
    return images * (1 - cover) + color * cover


def layers(scenes: Sequence[Scene], x: torch.Tensor, y: torch.Tensor
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """What the shapes cover, and the second shade's share behind them: [n, h, w] each."""
    cover, share = torch.zeros(2, len(scenes), *x.shape, device=x.device)
    for kind in KINDS:
        rows = [i for i, scene in enumerate(scenes) if scene.attributes.kind == kind]
        if rows:
            cover[rows] = coverage([scenes[i] for i in rows], kind, x, y)
    for texture in TEXTURES:
        rows = [i for i, scene in enumerate(scenes) if scene.attributes.texture == texture]
        if rows and texture != "plain":
            share[rows] = _texture([scenes[i] for i in rows], texture, x, y)
    return cover, share


def coverage(scenes: Sequence[Scene], kind: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How much of each pixel the scenes' shapes cover, [n, h, w]; all scenes show this kind."""
    covers = torch.zeros(len(scenes), *x.shape, device=x.device)
    for place in range(len(COUNTS)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.layout) > place]
        if not rows:
            break
        shapes = [scenes[i].layout[place] for i in rows]
        numbers = torch.tensor([(s.x, s.y, s.radius, s.rotation) for s in shapes], device=x.device)
        center_x, center_y, radius, rotation = numbers.float().T[:, :, None, None]
        dx, dy = x - center_x, y - center_y
        distance = torch.hypot(dx, dy) / radius
        inside = _margin(kind, distance, torch.atan2(dy, dx) - rotation) * radius
        covers[rows] = torch.maximum(covers[rows], (inside + 0.5).clamp(0, 1))
    return covers


def _margin(kind: str, distance: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Signed distance to the outline, roughly, in radii; positive inside."""
    if kind == "circle":
        return 0.9 - distance
    if kind == "ring":
        return 0.25 - (distance - 0.7).abs()
    if kind == "square":
        return _polygon(4, distance, angle)
    if kind == "triangle":
        return _polygon(3, distance, angle)
    return _star(distance, angle)


def _polygon(corners: int, distance: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    half = math.pi / corners
    return math.cos(half) - distance * torch.cos(angle % (2 * half) - half)


def _star(distance: torch.Tensor, angle: torch.Tensor, inner: float = 0.45) -> torch.Tensor:
    """Five points: within each tenth of a turn the edge runs from a tip to an inner corner."""
    tenth = math.pi / 5
    folded = (angle % (2 * tenth) - tenth).abs()  # 0 at an inner corner, a tenth at a tip
    corner = torch.tensor([inner, 0.0])
    tip = torch.tensor([math.cos(tenth), math.sin(tenth)])
    edge = tip - corner
    normal_x, normal_y = (edge[1] / edge.norm()).item(), (-edge[0] / edge.norm()).item()
    offset = inner * normal_x
    return offset - distance * (normal_x * folded.cos() + normal_y * folded.sin())


def _texture(scenes: Sequence[Scene], texture: str, x: torch.Tensor,
             y: torch.Tensor) -> torch.Tensor:
    period, angle = (_column([(number(scene.style),) for scene in scenes], x)
                     for number in (attrgetter("period"), attrgetter("angle")))
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    return _pattern(texture, along, across, period)[:, 0]


def _pattern(texture: str, along: torch.Tensor, across: torch.Tensor,
             period: torch.Tensor) -> torch.Tensor:
    """The second shade's share at every pixel."""
    if texture == "shaded":
        low, high = along.amin((2, 3), keepdim=True), along.amax((2, 3), keepdim=True)
        return (along - low) / (high - low)
    u, v = _triangle_wave(along, period), _triangle_wave(across, period)
    if texture == "striped":
        return (u + 0.5).clamp(0, 1)
    if texture == "dotted":
        from_center = torch.hypot(u - period / 4, v - period / 4)
        return (0.3 * period - from_center + 0.5).clamp(0, 1)
    a, b = (u + 0.5).clamp(0, 1), (v + 0.5).clamp(0, 1)
    return a * (1 - b) + b * (1 - a)


def _triangle_wave(position: torch.Tensor, period: torch.Tensor) -> torch.Tensor:
    """Pixels from the nearest edge between two half periods, positive in one of them."""
    return period / 4 - (position % period - period / 2).abs()


def _column(rows: list[tuple[float, ...]], like: torch.Tensor) -> torch.Tensor:
    """[n, k, 1, 1] numbers, to be broadcast over images."""
    return torch.tensor(rows, device=like.device, dtype=torch.float32)[:, :, None, None]
