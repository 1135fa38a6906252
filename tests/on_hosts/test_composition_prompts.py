"""Regions, masks, several prompts, guiders and split calls: each row reads its own exemplar."""

from __future__ import annotations

import graph
import pytest
import torch
from composing import (
    CONCAT,
    REPLACE,
    assert_close,
    assert_differ,
    chain_of,
    guider_of,
    model_of,
    noised,
    predict,
    prompts,
    run_node,
    watched,
)
from row_checks import assert_rows, names_of, photo_outputs, texts

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CFG, SIZE = 4.0, (12, 16)
PLACES = [REPLACE, CONCAT]
REGIONS = ["area", "areas of both", "mask", "regional prompt", "mask bounds"]


def area(conditioning, height, width, y, x):
    from nodes import ConditioningSetArea

    pixels = {"height": 8 * height, "width": 8 * width, "y": 8 * y, "x": 8 * x}
    return run_node(ConditioningSetArea, conditioning, **pixels, strength=0.8)[0]


def masked(conditioning, columns: slice, bounds="default"):
    from nodes import ConditioningSetMask

    mask = torch.zeros(1, 8 * SIZE[0], 8 * SIZE[1])
    mask[:, :, columns] = 1.0
    return run_node(ConditioningSetMask, conditioning, mask, set_cond_area=bounds, strength=1.0)[0]


def combined(*conditionings):
    return [entry for conditioning in conditionings for entry in conditioning]


def setups() -> dict[str, tuple]:
    """By name: positive, negative, and the rows (text, height, width) that the model must run."""
    t, whole, half = texts(), SIZE, (6, 16)
    positive, negative, region, more = (t[n] for n in ("positive", "negative", "region", "more"))
    left, right = slice(0, 64), slice(64, 128)
    plain = {("positive", *whole), ("negative", *whole)}
    return {
        "area": (
            combined(positive, area(region, *half, 0, 0)),
            negative,
            {*plain, ("region", *half), ("negative", *half)},
        ),
        "areas of both": (
            combined(positive, area(region, *half, 0, 0)),
            combined(negative, area(more, 12, 8, 0, 8)),
            # ComfyUI's own copies: every area of one side for the other side's smallest prompt
            {
                *plain,
                *{("region", *half), ("negative", *half)},
                *{("more", 12, 8), ("positive", 12, 8)},
            },
        ),
        "mask": (combined(positive, masked(region, left)), negative, {*plain, ("region", *whole)}),
        "regional prompt": (
            combined(masked(positive, left), masked(region, right)),
            combined(masked(negative, left), masked(more, right)),
            {*plain, ("region", *whole), ("more", *whole)},
        ),
        "mask bounds": (
            combined(positive, masked(region, left, "mask bounds")),
            negative,
            {*plain, ("region", 12, 8), ("negative", 12, 8)},
        ),
    }


def run(guider_of_model, chain, place, batch=1):
    """(latent, prediction, rows seen) of a guider made from the patched model."""
    x = noised(chain, place, size=SIZE, batch=batch)
    model = graph.patch(model_of("sd15"), chain)
    with watched(model) as seen:
        denoised = predict(guider_of_model(model), x, float(chain.sigmas[place]))
    return x, denoised, seen


def assert_normalized(x, denoised, chain, place):
    """The predicted noise, regions put together, has the photo's mean in each channel."""
    _, (own, *_) = photo_outputs(model_of("sd15"), chain, place)
    expected = (chain.latents[place] - own).mean((2, 3))
    for mean in (x - denoised).mean((2, 3)).split(1):
        assert_close(mean, expected, 1e-4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", REGIONS)
def test_regions(name, place):
    """Unconditional rows read the unconditional exemplar, in their copies of areas too."""
    positive, negative, expected = setups()[name]
    chain = chain_of(negative=True, height=10, width=6)
    x, denoised, seen = run(lambda m: guider_of(m, positive, negative, CFG), chain, place, batch=2)
    assert assert_rows(model_of("sd15"), seen, chain) == expected
    assert sum(name.startswith("photo") for name in names_of(seen)) == 2
    if place == REPLACE:
        assert_normalized(x, denoised, chain, place)


@pytest.mark.parametrize("name", REGIONS)
def test_regions_with_one_exemplar_row(name):
    """A chain without a negative: every row reads the only exemplar."""
    positive, negative, expected = setups()[name]
    chain = chain_of(height=10, width=6)
    _, _, seen = run(lambda m: guider_of(m, positive, negative, CFG), chain, CONCAT)
    assert assert_rows(model_of("sd15"), seen, chain) == expected
    assert sum(name.startswith("photo") for name in names_of(seen)) == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("style", ["regular", "nested"])
def test_dual_guidance(style, place):
    """DualCFGGuider passes the negative first, and core marks its second prompt as one, too."""
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    def guider(model):
        conds = (texts()[name] for name in ("positive", "more", "negative"))
        return run_node(DualCFGGuider, model, *conds, 3.0, 2.0, style)[0]

    chain = chain_of(negative=True)
    _, _, seen = run(guider, chain, place)
    shapes = {(name, *SIZE) for name in ("positive", "more", "negative")}
    assert assert_rows(model_of("sd15"), seen, chain) == shapes


@pytest.mark.parametrize("place", PLACES)
def test_basic_guider(place):
    """No unconditional row, so no unconditional exemplar is run either."""
    from comfy_extras.nodes_custom_sampler import BasicGuider

    def guider(model):
        return run_node(BasicGuider, model, texts()["positive"])[0]

    chain = chain_of(negative=True)
    _, _, seen = run(guider, chain, place)
    assert assert_rows(model_of("sd15"), seen, chain) == {("positive", *SIZE)}
    assert names_of(seen) == ["photo +", "positive"]


def short_of_memory(monkeypatch):
    """ComfyUI then runs every row in a call of its own."""
    base = model_of("sd15").model
    required = base.memory_required

    def short(shape, *args, **kwargs):
        return 1e30 if shape[0] > 1 else required(shape, *args, **kwargs)

    monkeypatch.setattr(base, "memory_required", short)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_calls_split_for_want_of_memory(place, negative, monkeypatch):
    chain = chain_of(negative=negative)

    def guider(model):
        return guider_of(model, **prompts(), cfg=CFG)

    _, whole, _ = run(guider, chain, place)
    short_of_memory(monkeypatch)
    _, split, seen = run(guider, chain, place)
    assert_close(split, whole)
    assert [row.call for row in seen] == list(range(3 + negative))
    assert_rows(model_of("sd15"), seen, chain)


@pytest.mark.parametrize("negative", [False, True])
def test_variation_split_for_want_of_memory(negative, monkeypatch):
    chain = chain_of(negative=negative)
    model = graph.patch(model_of("sd15"), chain)
    whole = graph.rival_sample(model, chain, **prompts(), seed=1)
    short_of_memory(monkeypatch)
    assert_close(graph.rival_sample(model, chain, **prompts(), seed=1), whole)


def test_prompt_for_a_part_of_the_schedule():
    """Where no prompt of a side is due at a step, the others still read the photo."""
    from nodes import ConditioningSetTimestepRange

    later = run_node(ConditioningSetTimestepRange, texts()["region"], start=0.5, end=1.0)[0]
    positive = combined(texts()["positive"], later)
    chain = chain_of(negative=True)
    for place, expected in ((REPLACE, 2), (CONCAT, 3)):
        _, _, seen = run(lambda m: guider_of(m, positive, texts()["negative"], CFG), chain, place)
        shapes = assert_rows(model_of("sd15"), seen, chain)
        assert len(shapes) == expected


def test_watching_changes_nothing():
    chain = chain_of()
    x, watched_result, _ = run(lambda m: guider_of(m, **prompts(), cfg=CFG), chain, REPLACE)
    plain = guider_of(graph.patch(model_of("sd15"), chain), **prompts(), cfg=CFG)
    assert torch.equal(watched_result, predict(plain, x, float(chain.sigmas[REPLACE])))
    unpatched = guider_of(model_of("sd15"), **prompts(), cfg=CFG)
    assert_differ(watched_result, predict(unpatched, x, float(chain.sigmas[REPLACE])))
