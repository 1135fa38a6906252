"""features = cached: what the exemplar gave is kept with its chain, and is what it would give."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from types import SimpleNamespace

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.exemplar import choose_layers

pytestmark = pytest.mark.host
STEPS = 5
MASKED = torch.zeros(1, 8, 8)
MASKED[:, :4] = 1
SETTINGS = {
    "defaults": {},
    "coarse": {"layers": "coarse"},
    "a part of the photo": {"exemplar_mask": MASKED},
    "a part of the image": {"mask": MASKED, "strength": 0.7},
}


@pytest.fixture(scope="module")
def world():
    import tiny

    model = tiny.build("sd15")
    empty, negative, caption = (tiny.conditioning(model, seed) for seed in (1, 2, 3))

    def invert(seed=4, **inputs):
        return graph.invert(model, tiny.latent(seed, size=8), empty, steps=STEPS, **inputs)[0]

    return {"model": model, "prompts": (caption, negative), "negative": negative, "invert": invert}


def run(world, chain, features="cached", model=None, sampler=None, **patch):
    """The samples, and the rows of every model call."""
    model = world["model"] if model is None else model
    patched = graph.patch(model, chain, features=features, **patch)
    with spies.model_rows(model) as calls:
        samples = graph.rival_sample(patched, chain, *world["prompts"], **(sampler or {}))
    return samples, [rows for rows, _ in calls]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["one row", "two rows"])
def test_later_runs_pay_no_row_and_equal_live_bitwise(world, kind, name):
    rows = {"one row": 1, "two rows": 2}[kind]
    chain = world["invert"](**({"negative": world["negative"]} if rows == 2 else {}))
    live, _ = run(world, chain, "live", **SETTINGS[name])
    first, calls = run(world, chain, **SETTINGS[name])
    assert calls == [rows, 2] * STEPS and torch.equal(first, live)
    second, calls = run(world, chain, **SETTINGS[name])
    assert calls == [2] * STEPS and torch.equal(second, live)


def test_other_seeds_prompts_sizes_and_batches_share_it(world):
    chain, size = world["invert"](), {"samples": torch.zeros(1, 4, 8, 12)}
    run(world, chain)
    for sampler in ({"seed": 9}, {"batch_size": 3}, {"latent": size}, {"denoise": 0.5}):
        cached, calls = run(world, chain, sampler=sampler)
        assert 1 not in calls
        assert torch.equal(cached, run(world, chain, "live", sampler=sampler)[0])


def test_only_open_steps_and_chosen_layers_are_kept(world):
    """5 steps at t = 801, 601, 401, 201, 1 of a schedule of 1000."""
    chain = world["invert"]()
    gates = {"inject_start": 0.3, "replace_end": 0.3, "inject_end": 0.7, "normalize_end": 0.1}
    live, calls = run(world, chain, "live", layers="coarse", **gates)
    assert torch.equal(run(world, chain, layers="coarse", **gates)[0], live)
    assert len(chain.features.rows) == calls.count(1) < STEPS
    for (place, row), stored in chain.features.rows.items():
        assert row == "positive" and 1 <= place <= STEPS
        assert set(stored.tokens) == choose_layers(chain.model, "coarse")


def test_what_is_missing_is_added(world):
    chain = world["invert"]()
    narrow = {"inject_start": 0.5, "normalize_end": 0.0, "layers": "coarse"}
    for change in ({}, {"layers": "all"}, {"normalize_end": 1.0}, {"inject_start": 0.0}):
        narrow |= change
        cached, calls = run(world, chain, **narrow)
        assert 1 in calls
        live, _ = run(world, chain, "live", **narrow)
        again, calls = run(world, chain, **narrow)
        assert 1 not in calls and torch.equal(cached, live) and torch.equal(again, live)


def lora(world):
    model = world["model"].clone()
    key = "diffusion_model.middle_block.1.proj_in.weight"
    shift = torch.full_like(model.model_state_dict()[key], 0.05)
    model.add_patches({key: ("diff", (shift,))})
    return model


def other_sampling(world):
    import composing
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return composing.run_node(ModelSamplingDiscrete, world["model"], "eps", True)[0]


@pytest.mark.parametrize("changed", [lora, other_sampling])
def test_another_model_never_reads_what_is_not_its_own(world, changed):
    chain, model = world["invert"](), changed(world)
    plain, _ = run(world, chain)
    cached, calls = run(world, chain, model=model)
    assert calls == [1, 2] * STEPS
    assert not torch.equal(cached, plain)
    assert torch.equal(cached, run(world, chain, "live", model=model)[0])
    assert run(world, chain, model=model)[1] == [2] * STEPS
    assert torch.equal(run(world, chain)[0], plain)


def test_a_model_that_was_freed_is_not_mistaken_for_its_successor(world):
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


def patched_output(world):
    model = world["model"].clone()
    model.set_model_output_block_patch(lambda h, hsp, options: (1.1 * h, hsp))
    return model


def wrapped(world):
    model = world["model"].clone()
    model.add_wrapper_with_key(
        "diffusion_model", "theirs", lambda executor, x, *a, **k: 1.1 * executor(x, *a, **k))
    return model


def replaced(world):
    model = world["model"].clone()
    model.set_model_attn2_replace(lambda q, k, v, options: 0.5 * q, "middle", 0)
    return model


def function_wrapper(world):
    model = world["model"].clone()
    model.set_model_unet_function_wrapper(
        lambda apply, call: 1.1 * apply(call["input"], call["timestep"], **call["c"]))
    return model


@pytest.mark.parametrize("other", [patched_output, wrapped, replaced, function_wrapper])
def test_beside_nodes_that_change_the_model_it_runs_live_and_says_so(world, caplog, other):
    chain, model = world["invert"](), other(world)
    run(world, chain)
    caplog.clear()
    for _ in range(2):
        samples, calls = run(world, chain, model=model)
        assert calls == [1, 2] * STEPS
        assert torch.equal(samples, run(world, chain, "live", model=model)[0])
    notices = [r.message for r in caplog.records if "features is 'cached', but" in r.message]
    assert len(notices) == 2 and all("those steps run live" in notice for notice in notices)
    assert run(world, chain)[1] == [2] * STEPS, "what the plain model gave is still there"


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


def prompts(chain):
    return chain.positive, chain.negative


@pytest.mark.parametrize(
    "add", [object_patch, injection, attention_override, prompt_with_hooks]
)
def test_what_else_may_act_on_the_photos_call_is_named(world, add):
    from comfyui_rival.nodes import host

    plain = world["model"].clone()
    chain = world["invert"]()
    assert host.others_acting(plain, plain.model_options, *prompts(chain)) is None
    model, chain, words = add(plain, chain)
    assert host.others_acting(model, model.model_options, *prompts(chain)) == words
    assert not host.may_stop_early(model, model.model_options, *prompts(chain))


def test_a_changed_copy_of_a_chain_has_a_cache_of_its_own(world):
    chain = world["invert"]()
    run(world, chain)
    other = dataclasses.replace(chain, latents=chain.latents.flip(3))
    assert not other.features.rows
    assert torch.equal(run(world, other)[0], run(world, other, "live")[0])


def test_sigmas_that_are_not_the_chains_run_live(world, caplog):
    import comfy.samplers

    chain = world["invert"]()
    run(world, chain)
    sigmas = chain.falling_sigmas().clone()
    sigmas[2] *= 1.01
    patched = graph.patch(world["model"], chain, features="cached")
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(*world["prompts"])
    guider.set_cfg(5.0)
    noise, euler = torch.ones(1, 4, 8, 8), comfy.samplers.sampler_object("euler")
    with spies.model_rows(world["model"]) as calls:
        guider.sample(noise, torch.zeros_like(noise), euler, sigmas)
    assert [sigma for rows, sigma in calls if rows == 1] == [float(sigmas[2])]
    assert "not the chain's" in caplog.text


@pytest.mark.parametrize("error", ["failure", "interrupt"])
def test_a_run_that_stops_leaves_whole_steps(world, error):
    import comfy.model_management as management

    chain = world["invert"](negative=world["negative"])
    live, _ = run(world, chain, "live")
    stop = {"failure": RuntimeError, "interrupt": management.InterruptProcessingException}[error]
    patched = graph.patch(world["model"], chain, features="cached")
    with spies.model_rows(world["model"], 5, stop), pytest.raises(stop):
        graph.rival_sample(patched, chain, *world["prompts"])
    assert {place for place, _ in chain.features.rows} == {STEPS, STEPS - 1}
    samples, calls = run(world, chain)
    assert calls == [2] * 2 + [2, 2] * (STEPS - 2) and torch.equal(samples, live)
    assert run(world, chain)[1] == [2] * STEPS


def test_a_failed_run_lets_go_of_it_even_while_its_error_is_kept(world):
    chain = world["invert"]()
    patched = graph.patch(world["model"], chain, features="cached")
    with (
        spies.live_runs() as runs,
        spies.model_rows(world["model"], 5),
        pytest.raises(RuntimeError) as error,
    ):
        graph.rival_sample(patched, chain, *world["prompts"])
    assert error.tb is not None and not runs[0]().shelves


def test_it_dies_with_its_chain(world):
    chain = world["invert"]()
    bare = chain.get_ram_usage()
    run(world, chain)
    assert chain.get_ram_usage() - bare == chain.features.nbytes > 0
    held = [weakref.ref(t) for row in chain.features.rows.values() for t in row.tensors()]
    assert held and all(ref() is not None for ref in held)
    del chain
    gc.collect()
    assert all(ref() is None for ref in held)


def test_ten_runs_leave_no_growth(world):
    chain = world["invert"]()

    def held() -> tuple:
        gc.collect()
        return chain.get_ram_usage(), sum(type(o) is torch.Tensor for o in gc.get_objects())

    for seed in range(10):
        run(world, chain, sampler={"seed": seed})
        if seed == 1:
            before = held()
    assert held() == before


def test_two_photos_each_keep_their_own(world):
    one, two = world["invert"](), world["invert"](seed=5)

    def both(features):
        model = graph.patch(world["model"], one, features=features)
        return run(world, two, features, model=model, replace_end=0.2)

    live, _ = both("live")
    assert torch.equal(both("cached")[0], live)
    again, calls = both("cached")
    assert torch.equal(again, live) and calls == [2] * STEPS


@pytest.mark.parametrize(
    "patch, sampler",
    [
        ({}, {}),
        ({"inject_start": 0.3, "inject_end": 0.7}, {}),
        ({"layers": "coarse"}, {"denoise": 0.5}),
        ({"features": "cached_int8"}, {"sampler_name": "euler_ancestral"}),
    ],
)
def test_the_bytes_are_known_before_the_first_is_stored(world, monkeypatch, patch, sampler):
    from comfyui_rival.nodes import features

    chain, asked, choose = world["invert"](negative=world["negative"]), [], features.choose_place
    monkeypatch.setattr(
        features, "choose_place", lambda size, *args: asked.append(size) or choose(size, *args))
    run(world, chain, **patch, sampler=sampler)
    held = sum(row.nbytes for row in chain.features.rows.values() if row.tokens)
    assert len(asked) == 1 and asked[0] == pytest.approx(held, rel=0.02)
    run(world, chain, **patch, sampler=sampler)
    assert len(asked) == 1, "nothing was stored in the second run"


def test_the_next_step_is_fetched_while_this_one_runs(world, monkeypatch):
    from comfyui_rival.rival_core.features import Prefetch

    chain, started = world["invert"](), []
    monkeypatch.setattr(Prefetch, "start", lambda self, rows: started.append(list(rows)))
    run(world, chain)
    assert started == [[]] * STEPS
    started.clear()
    run(world, chain)
    rows = [chain.features.rows[place, "positive"] for place in range(STEPS - 1, 0, -1)]
    assert [fetched[0] for fetched in started[:-1]] == rows and started[-1] == []


def test_no_room_is_refused_with_what_it_would_take(world, monkeypatch):
    from comfyui_rival.nodes import host

    chain, free = world["invert"](), [(torch.device("cpu"), 1000)]
    monkeypatch.setattr(host, "room_for_features", lambda *_: free)
    sentence = r"^RIVAL Patch Model: features is 'cached', .* GB.*decoder.*fewer steps.*live\.$"
    with pytest.raises(ValueError, match=sentence):
        run(world, chain)
    assert not chain.features.rows


def test_int8_drifts_little_and_equally_in_every_run(world):
    chain = world["invert"]()
    live, _ = run(world, chain, "live")
    first, _ = run(world, chain, "cached_int8")
    size = chain.features.nbytes
    second, calls = run(world, chain, "cached_int8")
    assert calls == [2] * STEPS and torch.equal(second, first)
    drift = graph.relative(first, live)
    print(f"int8 storage: the image drifts by {drift:.1e}")
    assert 0 < drift < 0.05
    assert torch.equal(run(world, chain)[0], live), "another precision is another key"
    assert size < 0.3 * chain.features.nbytes


def test_in_half_precision_cached_equals_live(world):
    """The hidden states are kept as the model computes them."""
    import tiny

    model = tiny.build("sd15")
    model.model.diffusion_model.half()
    model.model.diffusion_model.dtype = torch.float16
    chain = world["invert"]()
    live, _ = run(world, chain, "live", model=model)
    run(world, chain, model=model)
    assert {t.dtype for t in chain.features.rows[1, "positive"].tensors()} == {torch.float16}
    cached, calls = run(world, chain, model=model)
    assert calls == [2] * STEPS and graph.relative(cached, live) < 1e-3
