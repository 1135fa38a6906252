"""What the flow model is told of a scene while it learns, beside its latents: how it was drawn.

REPA (Yu et al. 2024, arXiv 2410.06940) aligns a transformer's hidden states with those of another
network. There is none here, but a procedural scene knows what such states would have to say: the
nearest shape's place, size, turn and kind, the texture's type and phase, the colours, and where
within a token's reach there is shape and where the second shade, whatever their colours. A reader
asks these of every token half way through the network, so that its first half comes to know them;
what is shipped has no reader.
"""

from __future__ import annotations

import math

import torch
from flow import learning_times, noised
from render import layers
from scenes import COUNTS, KINDS, TEXTURES, Scene
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from wan import Wan

TOKEN = 16  # pixels each way
CORNERS = {"circle": 0, "square": 4, "triangle": 3, "star": 5, "ring": 0}
CELLS = 4  # of a token's reach, each way
HINTS = 5 + 4 + 2 * CELLS**2 + len(KINDS) + len(COUNTS) + len(TEXTURES) + 9
WEIGHT = 0.6  # of an error in these beside one in the velocity


class Reader(nn.Module):
    """Reads every token's hints from a hidden state: [n, tokens, width] to [n, tokens, 63]."""

    def __init__(self, width: int, hidden: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, HINTS))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(layer_norm(x, x.shape[-1:]))


class Learner(nn.Module):
    """A network while it learns, and what reads its middle."""

    PREFIX = "network."

    def __init__(self, network: Wan):
        super().__init__()
        self.network, self.reader = network, Reader(network.width)

    def loss(self, latents: Tensor, text: Tensor, said: Tensor,
             generator: torch.Generator) -> Tensor:
        """Squared errors of velocity and hints. said: [n, tokens, 63]; else as `flow_loss`."""
        sigma = learning_times(len(latents), generator).to(latents.device)
        x, velocity = noised(latents, sigma, generator)
        with torch.autocast(latents.device.type, torch.bfloat16):
            predicted, read = self.network(x, sigma, text, self.reader)
        aside = (read.float() - said).square().mean()
        return (predicted - velocity).square().mean() + WEIGHT * aside


def network_weights(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's alone, of what a `Learner` kept."""
    return {name.removeprefix(Learner.PREFIX): tensor for name, tensor in saved.items()
            if name.startswith(Learner.PREFIX)}


def hints(scenes: list[Scene]) -> Tensor:
    """What there is to read, [n, tokens, 63], row by row; every number is about 1 in size."""
    y, x = (place.flatten() for place in _middles(scenes[0], TOKEN))
    local = [_shape_hints(scenes, x, y), _texture_hints(scenes, x, y), _drawn_hints(scenes)]
    said = torch.tensor([_said(scene) for scene in scenes])
    return torch.cat([*local, said[:, None].expand(-1, len(x), -1)], dim=2)


def _middles(scene: Scene, side: int) -> tuple[Tensor, ...]:
    """Where the middles of squares of this side lie, y and x."""
    return torch.meshgrid(*(torch.arange(length // side) * side + side / 2
                            for length in (scene.size, scene.width)), indexing="ij")


def _shape_hints(scenes: list[Scene], x: Tensor, y: Tensor) -> Tensor:
    """Of the shape that is nearest in its radii: how near, where from here, its turn. [n, t, 5]"""
    rows = [[(s.x, s.y, s.radius, s.rotation) for s in scene.layout] for scene in scenes]
    rows = [row + [(1e6, 1e6, 1.0, 0.0)] * (len(COUNTS) - len(row)) for row in rows]
    shapes = torch.tensor(rows)[:, :, None]  # [n, 3, 1, 4]
    dx, dy = shapes[..., 0] - x, shapes[..., 1] - y
    distance = torch.hypot(dx, dy) / shapes[..., 2]
    nearest = distance.argmin(dim=1, keepdim=True)
    dx, dy, distance, radius, rotation = (
        part.gather(1, nearest)[:, 0] for part in
        (dx, dy, distance, *(shapes[..., i].expand_as(dx) for i in (2, 3))))
    corners = torch.tensor([CORNERS[scene.attributes.kind] for scene in scenes])[:, None]
    turn, known = corners * rotation, (corners > 0) / (1 + distance)
    fade = 1 / (1 + distance**2)
    return torch.stack([2 * fade, 2 * fade * dx / radius, 2 * fade * dy / radius,
                        4 * known * turn.cos(), 4 * known * turn.sin()], dim=2)


def _texture_hints(scenes: list[Scene], x: Tensor, y: Tensor) -> Tensor:
    """The phase of the texture along and across it. [n, t, 4]"""
    style = torch.tensor([(scene.style.period, scene.style.angle) for scene in scenes])[:, :, None]
    period, angle = style[:, 0], style[:, 1]
    along = (x * angle.cos() + y * angle.sin()) * 2 * math.pi / period
    across = (y * angle.cos() - x * angle.sin()) * 2 * math.pi / period
    kept = [[t in ("striped", "checked", "dotted"), t in ("checked", "dotted")]
            for t in (scene.attributes.texture for scene in scenes)]
    one, two = torch.tensor(kept).float()[:, :, None].unbind(1)
    return torch.stack([one * along.cos(), one * along.sin(),
                        two * across.cos(), two * across.sin()], dim=2)


def _drawn_hints(scenes: list[Scene]) -> Tensor:
    """Shape or not, and which shade, at the middles of every token's cells. [n, t, 32]"""
    y, x = _middles(scenes[0], TOKEN // CELLS)
    cover, share = layers(scenes, x, y)
    drawn = torch.stack([2 * cover, 2 * share * (1 - cover)], dim=1)
    tokens = drawn.unflatten(3, (-1, CELLS)).unflatten(2, (-1, CELLS))
    return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _said(scene: Scene) -> list[float]:
    """What the whole picture has in common: the caption's words, and the shades."""
    a, style = scene.attributes, scene.style
    words = [2.0 * (word == said) for words, said in
             ((KINDS, a.kind), (COUNTS, COUNTS[a.count - 1]), (TEXTURES, a.texture))
             for word in words]
    return words + [2 * part - 1 for shade in (style.color, style.background, style.second)
                    for part in shade]
