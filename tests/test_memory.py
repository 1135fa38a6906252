"""What the host is told about memory, and what happens when there is too little."""

from __future__ import annotations

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.alignment import with_exemplars
from comfyui_rival.rival_core.chain import same
from comfyui_rival.rival_core.exemplar import Exemplar

pytestmark = pytest.mark.host
STEPS = 5


@pytest.fixture(scope="module")
def world():
    import tiny

    model = tiny.build("sd15")
    empty, negative, caption = (tiny.conditioning(model, seed) for seed in (1, 2, 3))

    def invert(**inputs):
        return graph.invert(model, tiny.latent(4, size=8), empty, steps=STEPS, **inputs)[0]

    return {"model": model, "prompts": (caption, negative), "negative": negative, "invert": invert}


def sample(world, model, chain, **inputs):
    return graph.rival_sample(model, chain, *world["prompts"], **inputs)


def out_of_memory(message="no memory left"):
    import comfy.model_management

    return comfy.model_management.OOM_EXCEPTION(message)


@pytest.mark.parametrize("features", ["live", "cached"])
def test_too_little_memory_for_the_photo_is_tried_once_more(world, features):
    chain = world["invert"]()
    expected = sample(world, graph.patch(world["model"], chain), chain)
    patched = graph.patch(world["model"], chain, features=features)
    with spies.model_rows(world["model"], 3, out_of_memory) as calls:
        assert torch.equal(sample(world, patched, chain), expected)
    assert [rows for rows, _ in calls] == [1, 2, 1, *([1, 2] * (STEPS - 1))]


def test_the_second_try_finds_the_cache_in_ram_and_the_device_free(world, monkeypatch):
    from comfyui_rival.nodes import features, host

    done, chain = [], world["invert"]()
    monkeypatch.setattr(features.Shelf, "move_to_ram", lambda self: done.append("moved"))
    monkeypatch.setattr(host, "free_unused", lambda: done.append("freed"))
    patched = graph.patch(world["model"], chain, features="cached")
    with spies.model_rows(world["model"], 5, out_of_memory):
        sample(world, patched, chain)
    assert done == ["moved", "freed"]


def test_too_little_memory_twice_is_an_error_that_says_what_to_do(world, monkeypatch):
    from comfyui_rival.nodes import host

    calls = []

    def full(*args):
        calls.append(args)
        raise out_of_memory()

    chain = world["invert"]()
    patched = graph.patch(world["model"], chain)
    monkeypatch.setattr(host, "evaluate", full)
    with pytest.raises(type(out_of_memory()), match=r"^RIVAL Patch Model: .*fewer images.*\.$"):
        sample(world, patched, chain)
    assert len(calls) == 2


def test_other_errors_are_not_tried_again(world):
    chain = world["invert"]()
    patched = graph.patch(world["model"], chain)
    with spies.model_rows(world["model"], 3) as calls, pytest.raises(RuntimeError):
        sample(world, patched, chain)
    assert len(calls) == 3


def test_the_host_reserves_memory_for_the_photo(world, monkeypatch):
    import comfy.model_management

    load, asked = comfy.model_management.load_models_gpu, []

    def spy(models, memory_required=0, **kwargs):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    chain = world["invert"]()
    asked.clear()
    for model in (world["model"], graph.patch(world["model"], chain)):
        for batch in (1, 4):
            sample(world, model, chain, batch_size=batch)
    one, four, beside_one, beside_four = asked
    assert beside_one == 2 * one and beside_four == pytest.approx(four * 5 / 4)


def test_what_counts_as_more_memory(world):
    chain, pair = world["invert"](), world["invert"](negative=world["negative"])
    assert with_exemplars([16, 4, 8, 8], [Exemplar(chain)]) == [16 + 3, 4, 8, 8]
    assert with_exemplars([16, 4, 8, 8], [Exemplar(pair)]) == [16 + 3, 4, 8, 8]
    assert with_exemplars([8, 4, 8, 8], [Exemplar(chain)] * 3) == [8 + 2, 4, 8, 8]
    assert with_exemplars([8, 4, 4, 4], [Exemplar(pair)]) == [8 + 1 + 4, 4, 4, 4]
    for nothing in ([], [Exemplar(chain, strength=0.0)]):
        assert with_exemplars([16, 4, 8, 8], nothing) == [16, 4, 8, 8]


def test_equal_prompts_share_one_row(world):
    """Whether it is the same prompt or another copy of it."""
    chain = world["invert"]()
    copied = [[chain.positive[0][0].clone(), dict(chain.positive[0][1])]]
    shared = world["invert"](negative=copied)
    patched = graph.patch(world["model"], shared)
    with spies.model_rows(world["model"]) as calls:
        samples = sample(world, patched, shared)
    assert [rows for rows, _ in calls] == [1, 2] * STEPS
    assert torch.equal(samples, sample(world, graph.patch(world["model"], chain), chain))


def test_sameness_of_prompts():
    tensor = torch.ones(1, 2, 3)
    prompt = [[tensor, {"pooled": tensor, "width": 8, "other": None}]]
    assert same(prompt, [[tensor.clone(), {"pooled": tensor.clone(), "width": 8, "other": None}]])
    for other in (
        [[tensor + 1, prompt[0][1]]],
        [[tensor[:, :1], prompt[0][1]]],
        [[tensor.half(), prompt[0][1]]],
        [[tensor, {**prompt[0][1], "width": 9}]],
        [[tensor, {**prompt[0][1], "more": 1}]],
        [[tensor, {**prompt[0][1], "other": object()}]],
        prompt * 2,
        None,
    ):
        assert not same(prompt, other)
