"""features = cached beside another model and other nodes' patches: what changes is not reused."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from composing import model_of
from keeping import STEPS, invert, run

pytestmark = pytest.mark.host


def texts_of(chain):
    return chain.positive, chain.negative


def lora():
    model = model_of("sd15").clone()
    key = "diffusion_model.middle_block.1.proj_in.weight"
    shift = torch.full_like(model.model_state_dict()[key], 0.05)
    model.add_patches({key: ("diff", (shift,))})
    return model


def other_sampling():
    import composing
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return composing.run_node(ModelSamplingDiscrete, model_of("sd15"), "eps", True)[0]


@pytest.mark.parametrize("changed", [pytest.param(lora, marks=pytest.mark.any_host),
                                     other_sampling])  # fmt: skip
def test_another_model_never_reads_what_is_not_its_own(changed):
    chain, model = invert(), changed()
    plain, _ = run(chain)
    cached, calls = run(chain, model=model)
    assert calls == [1, 2] * STEPS
    assert not torch.equal(cached, plain)
    assert torch.equal(cached, run(chain, "live", model=model)[0])
    assert run(chain, model=model)[1] == [2] * STEPS
    assert torch.equal(run(chain)[0], plain)


def test_a_model_that_was_freed_is_not_mistaken_for_its_successor():
    """Same memory address, same patches: only a weak reference tells them apart."""
    import tiny
    from comfyui_rival.nodes import host

    model = tiny.build("sd15", seed=8)
    uuid = model.patches_uuid
    key = host.weights_key(model)
    assert key == host.weights_key(model.clone())
    base = weakref.ref(model.model)
    del model
    gc.collect()
    assert base() is None, "the key kept the model"
    assert [part() for part in key if isinstance(part, weakref.ref)] == [None, None]
    successor = tiny.build("sd15", seed=9)
    successor.patches_uuid = uuid
    assert host.weights_key(successor) != key


def patched_output():
    model = model_of("sd15").clone()
    model.set_model_output_block_patch(lambda h, hsp, options: (1.1 * h, hsp))
    return model


def wrapped():
    model = model_of("sd15").clone()
    model.add_wrapper_with_key(
        "diffusion_model", "theirs", lambda executor, x, *a, **k: 1.1 * executor(x, *a, **k))
    return model


def replaced():
    model = model_of("sd15").clone()
    model.set_model_attn2_replace(lambda q, k, v, options: 0.5 * q, "middle", 0)
    return model


def function_wrapper():
    model = model_of("sd15").clone()
    model.set_model_unet_function_wrapper(
        lambda apply, call: 1.1 * apply(call["input"], call["timestep"], **call["c"]))
    return model


@pytest.mark.parametrize("other", [wrapped, function_wrapper])
def test_what_is_wrapped_around_the_images_calls_does_not_touch_the_photos(other):
    """What the plain model gave stands for a wrapped one, which the photo's calls go without."""
    chain, model = invert(), other()
    _, first = run(chain)
    samples, calls = run(chain, model=model)
    assert first == [1, 2] * STEPS and calls == [2] * STEPS
    assert torch.equal(samples, run(chain, "live", model=model)[0])
    assert not torch.equal(samples, run(chain)[0])


@pytest.mark.parametrize("other", [patched_output,
                                   pytest.param(replaced, marks=pytest.mark.any_host)])  # fmt: skip
def test_beside_nodes_that_change_the_model_it_runs_live_and_says_so(caplog, other):
    chain, model = invert(), other()
    run(chain)
    caplog.clear()
    for _ in range(2):
        samples, calls = run(chain, model=model)
        assert calls == [1, 2] * STEPS
        assert torch.equal(samples, run(chain, "live", model=model)[0])
    notices = [r.message for r in caplog.records if "features is 'cached', but" in r.message]
    assert len(notices) == 2 and all("those steps run live" in notice for notice in notices)
    assert run(chain)[1] == [2] * STEPS, "what the plain model gave is still there"


def object_patch(model, chain):
    model.add_object_patch("diffusion_model.out", torch.nn.Identity())
    return model, chain, "objects: diffusion_model.out"


def injection(model, chain):
    model.set_injections("motion", [])
    model.injections["motion"] = [object()]
    return model, chain, "injections: motion"


def attention_override(model, chain):
    model.model_options["transformer_options"]["optimized_attention_override"] = print
    return model, chain, "overrides: optimized_attention_override"


def prompt_with_hooks(model, chain):
    hooks = SimpleNamespace(hooks=["a LoRA"])
    hooked = [[chain.positive[0][0], {**chain.positive[0][1], "hooks": hooks}]]
    return model, dataclasses.replace(chain, negative=hooked), "prompts: hooks"


@pytest.mark.parametrize(
    "add", [object_patch, injection, attention_override, prompt_with_hooks]
)
def test_what_else_may_act_on_the_photos_call_is_named(add):
    from comfyui_rival.nodes import host

    plain = model_of("sd15").clone()
    chain = invert()
    assert host.others_acting(plain, plain.model_options, *texts_of(chain)) is None
    model, chain, words = add(plain, chain)
    assert host.others_acting(model, model.model_options, *texts_of(chain)) == words
    assert not host.may_stop_early(model, model.model_options, *texts_of(chain))
