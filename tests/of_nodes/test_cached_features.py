"""features = cached: what the exemplar gave is kept with its chain, and is what it would give."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.steering.exemplar import choose_layers
from composing import model_of
from keeping import STEPS, invert, negative, prompts, run

pytestmark = pytest.mark.any_host
MASKED = torch.zeros(1, 8, 8)
MASKED[:, :4] = 1
SETTINGS = {
    "defaults": {},
    "coarse": {"layers": "coarse"},
    "a part of the photo": {"exemplar_mask": MASKED},
    "a part of the image": {"mask": MASKED, "strength": 0.7},
}


@pytest.mark.parametrize(("rows", "name"), [
    pytest.param(1, "defaults", marks=pytest.mark.host), (1, "coarse"), (1, "a part of the photo"),
    pytest.param(2, "a part of the image", marks=pytest.mark.host), (2, "defaults"),
])
def test_later_runs_pay_no_row_and_equal_live_bitwise(rows, name):
    chain = invert(**({"negative": negative()} if rows == 2 else {}))
    live, _ = run(chain, "live", **SETTINGS[name])
    first, calls = run(chain, **SETTINGS[name])
    assert calls == [rows, 2] * STEPS and torch.equal(first, live)
    second, calls = run(chain, **SETTINGS[name])
    assert calls == [2] * STEPS and torch.equal(second, live)


def test_other_seeds_prompts_sizes_and_batches_share_it():
    chain, size = invert(), {"samples": torch.zeros(1, 4, 8, 12)}
    run(chain)
    for sampler in ({"seed": 9}, {"batch_size": 3}, {"latent": size}, {"denoise": 0.5}):
        cached, calls = run(chain, sampler=sampler)
        assert 1 not in calls
        assert torch.equal(cached, run(chain, "live", sampler=sampler)[0])


def test_only_open_steps_and_chosen_layers_are_kept():
    """5 steps at t = 801, 601, 401, 201, 1 of a schedule of 1000."""
    chain = invert()
    gates = {"inject_start": 0.3, "replace_end": 0.3, "inject_end": 0.7, "normalize_end": 0.1}
    live, calls = run(chain, "live", layers="coarse", **gates)
    assert torch.equal(run(chain, layers="coarse", **gates)[0], live)
    assert len(chain.features.rows) == calls.count(1) < STEPS
    for (place, row), stored in chain.features.rows.items():
        assert row == "positive" and 1 <= place <= STEPS
        assert set(stored.tokens) == choose_layers(chain.model, "coarse")


def test_what_is_missing_is_added():
    chain = invert()
    narrow = {"inject_start": 0.5, "normalize_end": 0.0, "layers": "coarse"}
    for change in ({}, {"layers": "all"}, {"normalize_end": 1.0}, {"inject_start": 0.0}):
        narrow |= change
        cached, calls = run(chain, **narrow)
        assert 1 in calls
        live, _ = run(chain, "live", **narrow)
        again, calls = run(chain, **narrow)
        assert 1 not in calls and torch.equal(cached, live) and torch.equal(again, live)


def test_a_changed_copy_of_a_chain_has_a_cache_of_its_own():
    chain = invert()
    run(chain)
    other = dataclasses.replace(chain, latents=chain.latents.flip(3))
    assert not other.features.rows
    assert torch.equal(run(other)[0], run(other, "live")[0])


@pytest.mark.host
def test_sigmas_that_are_not_the_chains_run_live(caplog):
    import comfy.samplers

    chain = invert()
    run(chain)
    sigmas = chain.falling_sigmas().clone()
    sigmas[2] *= 1.01
    patched = graph.patch(model_of("sd15"), chain, features="cached")
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(*prompts())
    guider.set_cfg(5.0)
    noise, euler = torch.ones(1, 4, 8, 8), comfy.samplers.sampler_object("euler")
    with spies.model_rows(model_of("sd15")) as calls:
        guider.sample(noise, torch.zeros_like(noise), euler, sigmas)
    assert [sigma for rows, sigma in calls if rows == 1] == [float(sigmas[2])]
    assert "not the chain's" in caplog.text


@pytest.mark.host
@pytest.mark.parametrize("error", ["failure", "interrupt"])
def test_a_run_that_stops_leaves_whole_steps(error):
    import comfy.model_management as management

    chain = invert(negative=negative())
    live, _ = run(chain, "live")
    stop = {"failure": RuntimeError, "interrupt": management.InterruptProcessingException}[error]
    patched = graph.patch(model_of("sd15"), chain, features="cached")
    with spies.model_rows(model_of("sd15"), 5, stop), pytest.raises(stop):
        graph.rival_sample(patched, chain, *prompts())
    assert {place for place, _ in chain.features.rows} == {STEPS, STEPS - 1}
    samples, calls = run(chain)
    assert calls == [2] * 2 + [2, 2] * (STEPS - 2) and torch.equal(samples, live)
    assert run(chain)[1] == [2] * STEPS


@pytest.mark.host
def test_a_failed_run_lets_go_of_it_even_while_its_error_is_kept():
    chain = invert()
    patched = graph.patch(model_of("sd15"), chain, features="cached")
    with (
        spies.live_runs() as runs,
        spies.model_rows(model_of("sd15"), 5),
        pytest.raises(RuntimeError) as error,
    ):
        graph.rival_sample(patched, chain, *prompts())
    assert error.tb is not None and not runs[0]().shelves


def test_it_dies_with_its_chain():
    chain = invert()
    bare = chain.get_ram_usage()
    run(chain)
    assert chain.get_ram_usage() - bare == chain.features.nbytes > 0
    held = [weakref.ref(t) for row in chain.features.rows.values() for t in row.tensors()]
    assert held and all(ref() is not None for ref in held)
    del chain
    gc.collect()
    assert all(ref() is None for ref in held)


def test_ten_runs_leave_no_growth():
    chain = invert()

    def held() -> tuple:
        gc.collect()
        return chain.get_ram_usage(), sum(type(o) is torch.Tensor for o in gc.get_objects())

    for seed in range(10):
        run(chain, sampler={"seed": seed})
        if seed == 1:
            before = held()
    assert held() == before


def test_two_photos_each_keep_their_own():
    one, two = invert(), invert(seed=5)

    def both(features):
        model = graph.patch(model_of("sd15"), one, features=features)
        return run(two, features, model=model, replace_end=0.2)

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
def test_the_bytes_are_known_before_the_first_is_stored(monkeypatch, patch, sampler):
    from comfyui_rival.nodes.steering import features

    chain, asked, choose = invert(negative=negative()), [], features.choose_place
    monkeypatch.setattr(
        features, "choose_place", lambda size, *args: asked.append(size) or choose(size, *args))
    run(chain, **patch, sampler=sampler)
    held = sum(row.nbytes for row in chain.features.rows.values() if row.tokens)
    assert len(asked) == 1 and asked[0] == pytest.approx(held, rel=0.02)
    run(chain, **patch, sampler=sampler)
    assert len(asked) == 1, "nothing was stored in the second run"


def test_the_next_step_is_fetched_while_this_one_runs(monkeypatch):
    from comfyui_rival.rival_core.chain.features import Prefetch

    chain, started = invert(), []
    monkeypatch.setattr(Prefetch, "start", lambda self, rows: started.append(list(rows)))
    run(chain)
    assert started == [[]] * STEPS
    started.clear()
    run(chain)
    rows = [chain.features.rows[place, "positive"] for place in range(STEPS - 1, 0, -1)]
    assert [fetched[0] for fetched in started[:-1]] == rows and started[-1] == []


def test_no_room_is_refused_with_what_it_would_take(monkeypatch):
    from comfyui_rival.nodes import host

    chain, free = invert(), [(torch.device("cpu"), 1000)]
    monkeypatch.setattr(host, "room_for_features", lambda *_: free)
    sentence = r"^RIVAL Patch Model: features is 'cached', .* GB.*decoder.*fewer steps.*live\.$"
    with pytest.raises(ValueError, match=sentence):
        run(chain)
    assert not chain.features.rows


def test_int8_drifts_little_and_equally_in_every_run():
    chain = invert()
    live, _ = run(chain, "live")
    first, _ = run(chain, "cached_int8")
    size = chain.features.nbytes
    second, calls = run(chain, "cached_int8")
    assert calls == [2] * STEPS and torch.equal(second, first)
    drift = graph.relative(first, live)
    print(f"int8 storage: the image drifts by {drift:.1e}")
    assert 0 < drift < 0.05
    assert torch.equal(run(chain)[0], live), "another precision is another key"
    assert size < 0.3 * chain.features.nbytes


@pytest.mark.host
def test_in_half_precision_cached_equals_live():
    """The hidden states are kept as the model computes them."""
    import tiny

    model = tiny.build("sd15")
    model.model.diffusion_model.half()
    model.model.diffusion_model.dtype = torch.float16
    chain = invert()
    live, _ = run(chain, "live", model=model)
    run(chain, model=model)
    assert {t.dtype for t in chain.features.rows[1, "positive"].tensors()} == {torch.float16}
    cached, calls = run(chain, model=model)
    assert calls == [2] * STEPS and graph.relative(cached, live) < 1e-3
