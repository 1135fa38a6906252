"""The measure of outlines, on shapes that are drawn."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "benchmarks"), str(REPO / "demo" / "model")]

import report
from outlines import best_fit, outline_fit
from render import render
from scenes import KINDS, Attributes, make_scene
from torch.nn.functional import avg_pool2d


def mask_of(kind: str, seed: int, count: int = 1) -> torch.Tensor:
    scene = make_scene(seed, Attributes(count, "red", kind, "blue", "plain"))
    return report.foreground(scene, render([scene]))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawn_shape_has_its_kinds_outline_and_no_others(kind):
    mask = mask_of(kind, seed=3)
    fits = {other: best_fit(mask, other) for other in KINDS}
    assert fits.pop(kind) > 0.96 and max(fits.values()) < 0.92


@pytest.mark.parametrize("kind", ["square", "star", "triangle"])
def test_rounded_corners_lower_it(kind):
    sharp = mask_of(kind, seed=4)
    rounded = avg_pool2d(sharp[None, None].float(), 15, 1, 7)[0, 0] > 0.5
    assert best_fit(rounded, kind) < best_fit(sharp, kind) - 0.02


def test_it_is_the_mean_over_shapes_by_their_size():
    small, large = torch.zeros(2, 96, 96, dtype=torch.bool)
    small[10:20, 10:20], large[40:80, 40:80] = True, True
    each = [(best_fit(part, "circle"), part.sum()) for part in (small, large)]
    expected = sum(fit * size for fit, size in each) / sum(size for _, size in each)
    assert outline_fit(small | large, "circle") == pytest.approx(float(expected))


def test_a_speck_is_no_shape_and_no_shape_has_no_outline():
    speck = torch.zeros(32, 32, dtype=torch.bool)
    speck[3:6, 3:6] = True
    assert math.isnan(outline_fit(speck, "circle"))
    square = mask_of("square", seed=4)
    assert outline_fit(square, "square") == pytest.approx(best_fit(square, "square"))
