"""What the host is told about memory, and what happens when there is too little."""

from __future__ import annotations

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.chain.chain import same
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.step import with_exemplars
from composing import model_of
from keeping import STEPS, invert, negative, prompts

pytestmark = pytest.mark.host


def sample(model, chain, **inputs):
    return graph.rival_sample(model, chain, *prompts(), **inputs)


def out_of_memory(message="no memory left"):
    import comfy.model_management

    return comfy.model_management.OOM_EXCEPTION(message)


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize("features", ["live", "cached"])
def test_too_little_memory_for_the_photo_is_tried_once_more(features):
    chain = invert()
    expected = sample(graph.patch(model_of("sd15"), chain), chain)
    patched = graph.patch(model_of("sd15"), chain, features=features)
    with spies.model_rows(model_of("sd15"), 3, out_of_memory) as calls:
        assert torch.equal(sample(patched, chain), expected)
    assert [rows for rows, _ in calls] == [1, 2, 1, *([1, 2] * (STEPS - 1))]


def test_the_second_try_finds_the_cache_in_ram_and_the_device_free(monkeypatch):
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.steering import features

    done, chain = [], invert()
    monkeypatch.setattr(features.Shelf, "move_to_ram", lambda self: done.append("moved"))
    monkeypatch.setattr(host, "free_unused", lambda: done.append("freed"))
    patched = graph.patch(model_of("sd15"), chain, features="cached")
    with spies.model_rows(model_of("sd15"), 5, out_of_memory):
        sample(patched, chain)
    assert done == ["moved", "freed"]


@pytest.mark.usefixtures("photos_apart")
def test_too_little_memory_twice_is_an_error_that_says_what_to_do(monkeypatch):
    from comfyui_rival.nodes import host

    calls = []

    def full(*args):
        calls.append(args)
        raise out_of_memory()

    chain = invert()
    patched = graph.patch(model_of("sd15"), chain)
    monkeypatch.setattr(host, "evaluate", full)
    with pytest.raises(type(out_of_memory()), match=r"^RIVAL Patch Model: .*fewer images.*\.$"):
        sample(patched, chain)
    assert len(calls) == 2


def test_other_errors_are_not_tried_again():
    chain = invert()
    patched = graph.patch(model_of("sd15"), chain)
    with spies.model_rows(model_of("sd15"), 3) as calls, pytest.raises(RuntimeError):
        sample(patched, chain)
    assert len(calls) == 3


def test_the_host_reserves_memory_for_the_photo(monkeypatch):
    import comfy.model_management

    load, asked = comfy.model_management.load_models_gpu, []

    def spy(models, memory_required=0, **kwargs):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    chain = invert()
    asked.clear()
    for model in (model_of("sd15"), graph.patch(model_of("sd15"), chain)):
        for batch in (1, 4):
            sample(model, chain, batch_size=batch)
    one, four, beside_one, beside_four = asked
    assert beside_one == 2 * one and beside_four == pytest.approx(four * 5 / 4)


def test_what_counts_as_more_memory():
    chain, pair = invert(), invert(negative=negative())
    assert with_exemplars([16, 4, 8, 8], [Exemplar(chain)]) == [16 + 3, 4, 8, 8]
    assert with_exemplars([16, 4, 8, 8], [Exemplar(pair)]) == [16 + 3, 4, 8, 8]
    assert with_exemplars([8, 4, 8, 8], [Exemplar(chain)] * 3) == [8 + 2, 4, 8, 8]
    assert with_exemplars([8, 4, 4, 4], [Exemplar(pair)]) == [8 + 1 + 4, 4, 4, 4]
    for nothing in ([], [Exemplar(chain, strength=0.0)]):
        assert with_exemplars([16, 4, 8, 8], nothing) == [16, 4, 8, 8]


def test_equal_prompts_share_one_row():
    """Whether it is the same prompt or another copy of it."""
    chain = invert()
    copied = [[chain.positive[0][0].clone(), dict(chain.positive[0][1])]]
    shared = invert(negative=copied)
    patched = graph.patch(model_of("sd15"), shared)
    with spies.model_rows(model_of("sd15")) as calls:
        samples = sample(patched, shared)
    assert [rows for rows, _ in calls] == [1 + 2] * STEPS
    assert torch.equal(samples, sample(graph.patch(model_of("sd15"), chain), chain))


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
