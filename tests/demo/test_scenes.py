"""The demo's scenes: the same from the same seed, and what their attributes say they are."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import render as drawing
import scenes
from render import coverage, render
from scenes import COLORS, KINDS, SIZE, TEXTURES, Attributes, caption, make_scene

SEEDS = range(60)


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.arange(SIZE) + 0.5
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    return x, y


def test_the_same_seed_gives_the_same_scene_and_image():
    first, second = make_scene(7), make_scene(7)
    assert first == second
    assert torch.equal(render([first]), render([second]))
    assert make_scene(8) != first


def test_a_scene_looks_the_same_in_any_batch():
    many = [make_scene(seed) for seed in range(40)]
    together = render(many)
    alone = torch.cat([render([scene]) for scene in many])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_attributes_can_be_asked_for():
    wanted = Attributes(3, "red", "star", "blue", "striped")
    scene = make_scene(5, wanted)
    assert scene.attributes == wanted
    assert len(scene.layout) == 3


def test_captions_say_the_attributes_in_plain_words():
    assert (caption(Attributes(3, "red", "star", "blue", "striped"))
            == "three red stars on a blue striped background")
    assert (caption(Attributes(1, "white", "ring", "black", "plain"))
            == "one white ring on a black plain background")


def test_every_combination_has_a_caption_of_its_own():
    everything = scenes.all_attributes()
    assert len({caption(a) for a in everything}) == len(everything)
    assert all(a.color != a.background for a in everything)


@pytest.mark.parametrize("kind", KINDS)
def test_count_and_kind_match_the_pixels(kind):
    """As many separate patches as the count says, all of the kind's area."""
    for seed in range(12):
        scene = make_scene(seed, Attributes(seed % 3 + 1, "red", kind, "blue", "plain"))
        cover = coverage([scene], kind, *grid())[0]
        assert patches(cover > 0.5) == scene.attributes.count
        expected = sum(area(kind) * shape.radius**2 for shape in scene.layout)
        assert cover.sum().item() == pytest.approx(expected, rel=0.06)


def test_shapes_show_their_colour_and_the_rest_shows_the_background():
    for seed in SEEDS:
        scene = make_scene(seed)
        image = render([scene])[0]
        cover = coverage([scene], scene.attributes.kind, *grid())[0]
        color = torch.tensor(scene.style.color, dtype=torch.float32)
        torch.testing.assert_close(image[:, cover == 1].mean(dim=1), color, rtol=0, atol=1e-3)
        shades = torch.tensor([scene.style.background, scene.style.second])
        rest = image[:, cover == 0].T
        assert between(rest, *shades).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_mix_their_two_shades(texture):
    for seed in range(10):
        scene = make_scene(seed, Attributes(1, "red", "circle", "blue", texture))
        bare = replace(scene, layout=())
        pixels = render([bare])[0].flatten(1).T
        first, second = (torch.tensor(shade)
                         for shade in (scene.style.background, scene.style.second))
        share = ((pixels - first) @ (second - first)) / (second - first).square().sum()
        if texture == "plain":
            assert share.abs().max() < 1e-5
        else:
            assert share.min() < 0.02 and share.max() > 0.98
            assert 0.15 < share.mean() < 0.75


def test_shades_stay_near_the_colour_that_the_caption_names():
    for seed in SEEDS:
        scene = make_scene(seed)
        for name, shade in ((scene.attributes.color, scene.style.color),
                            (scene.attributes.background, scene.style.background)):
            assert nearest_color(shade) == name


def test_a_new_layout_keeps_content_and_style():
    scene = make_scene(3, Attributes(3, "green", "star", "white", "dotted"))
    other = scenes.relayout(scene, 99)
    assert other == scenes.relayout(scene, 99)
    assert (other.attributes, other.style) == (scene.attributes, scene.style)
    assert other.layout != scene.layout


@pytest.mark.parametrize("size, smallest", [(SIZE, 8), (SIZE // 2, 2)])
def test_shapes_neither_touch_nor_leave_the_picture(size, smallest):
    for seed in range(200):
        layout = make_scene(seed, size=size).layout
        for i, a in enumerate(layout):
            assert a.radius > smallest
            assert a.radius <= min(a.x, a.y, size - a.x, size - a.y)
            assert all(math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius
                       for b in layout[:i])


def test_drawing_in_chunks_changes_nothing(monkeypatch):
    many = [make_scene(seed) for seed in range(10)]
    whole = render(many)
    monkeypatch.setattr(drawing, "CHUNK", 3)
    torch.testing.assert_close(render(many), whole, rtol=0, atol=1e-6)


def area(kind: str) -> float:
    """Of a shape of radius 1."""
    return {
        "circle": math.pi * 0.9**2,
        "square": 2.0,
        "triangle": 3 * math.sqrt(3) / 4,
        "star": 5 * 0.45 * math.sin(math.pi / 5),
        "ring": math.pi * (0.95**2 - 0.45**2),
    }[kind]


def patches(mask: torch.Tensor) -> int:
    """Connected patches of a mask: labels spread from neighbour to neighbour until they rest."""
    label = torch.where(mask, torch.arange(1.0, mask.numel() + 1).view(mask.shape), 0.0)
    while True:
        spread = torch.nn.functional.max_pool2d(label[None], 3, 1, 1)[0] * mask
        if torch.equal(spread, label):
            return len(label.unique()) - 1
        label = spread


def between(pixels: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    low, high = torch.minimum(first, second) - 1e-4, torch.maximum(first, second) + 1e-4
    return ((pixels >= low) & (pixels <= high)).all(dim=1)


def nearest_color(shade: tuple[float, float, float]) -> str:
    import colorsys

    def distance(name: str) -> float:
        named = colorsys.hsv_to_rgb(*COLORS[name])
        return sum((a - b) ** 2 for a, b in zip(named, shade))

    return min(COLORS, key=distance)
