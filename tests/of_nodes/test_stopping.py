"""The exemplar's own call ends where nothing more of it is needed."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import graph
import pytest
import spies
import torch

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("photos_apart")]
STEPS, NORMALIZED = 5, 2  # t = 801 and 601 of 801, 601, 401, 201, 1


@pytest.fixture(scope="module")
def world():
    import tiny

    model = tiny.build("sd15")
    empty, negative, caption = (tiny.conditioning(model, seed) for seed in (1, 2, 3))
    inputs = {"steps": STEPS, "negative": negative}
    chain, _ = graph.invert(model, tiny.latent(4, size=8), empty, **inputs)
    return model, chain, (caption, negative)


@contextmanager
def exemplar_passes(model):
    """{part of the UNet's way up: how often two rows entered it}; generated rows are four."""
    unet, seen = model.model.diffusion_model, Counter()
    parts = {f"output {i}": block[0] for i, block in enumerate(unet.output_blocks)}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, given, name=name: seen.update([name] if len(given[0]) == 2 else [])
        )
        for name, part in {**parts, "head": unet.out}.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def sample(world, **patch):
    model, chain, prompts = world
    patched = graph.patch(model, chain, **patch)
    return graph.rival_sample(patched, chain, *prompts, batch_size=2)


@pytest.mark.parametrize("layers, last", [("all", "output 3"), ("coarse", "output 1")])
def test_it_ends_with_the_last_layer_that_is_read(world, layers, last):
    with exemplar_passes(world[0]) as passes:
        sample(world, layers=layers)
    names = [f"output {i}" for i in range(4)] + ["head"]
    reached = names.index(last)
    assert [passes[name] for name in names] == [
        STEPS if i <= reached else NORMALIZED for i in range(5)
    ]


def test_it_runs_to_the_end_where_its_estimate_is_needed(world):
    with exemplar_passes(world[0]) as passes:
        sample(world, normalize_end=1.0)
    assert passes["head"] == STEPS


@pytest.mark.parametrize("layers", ["all", "coarse"])
def test_the_images_are_the_same(world, monkeypatch, layers):
    from comfyui_rival.nodes import host

    early = sample(world, layers=layers)
    monkeypatch.setattr(host, "may_stop_early", lambda *_: False)
    with exemplar_passes(world[0]) as passes:
        assert torch.equal(sample(world, layers=layers), early)
    assert passes["head"] == STEPS


def test_the_model_is_as_before(world):
    model, chain, prompts = world
    plain = graph.rival_sample(model, chain, *prompts)
    sample(world, layers="coarse")
    assert torch.equal(graph.rival_sample(model, chain, *prompts), plain)


def theirs(executor, *args, **kwargs):
    return executor(*args, **kwargs)


@pytest.mark.parametrize("kind, key, stops", [("diffusion_model", "theirs", True),
                                              ("apply_model", "torch.compile", False)])
def test_beside_wrappers_it_does_unless_they_see_the_call(world, kind, key, stops):
    """Other nodes' are kept out of the photo's call; a compiled model is not to be broken off."""
    model, chain, prompts = world
    wrapped = model.clone()
    wrapped.add_wrapper_with_key(kind, key, theirs)
    with exemplar_passes(model) as passes:
        sample((wrapped, chain, prompts), layers="coarse")
    with exemplar_passes(model) as alone:
        sample(world, layers="coarse")
    assert passes["head"] == (alone["head"] if stops else STEPS) and alone["head"] < STEPS


def test_rows_that_the_host_runs_one_by_one_all_run(world, monkeypatch):
    """Where memory is short: the first call has not all rows, so it goes to its end."""
    model = world[0]
    expected = sample(world, layers="coarse")
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e15)
    with spies.model_rows(model) as calls:
        assert graph.relative(sample(world, layers="coarse"), expected) < 1e-5
    assert [rows for rows, _ in calls] == [1, 1, 2, 2] * STEPS
