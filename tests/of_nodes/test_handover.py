"""RIVAL Invert's features: what the solver saw last is what the first run would compute."""

from __future__ import annotations

import graph
import pytest
import spies
import tiny
import torch
from composing import remembered

pytestmark = pytest.mark.any_host
STEPS = 7


@remembered
def model():
    """Smooth enough for fixed points to be reached."""
    return tiny.calm(tiny.build("sd15", levels=1), share=0.05)


def prompt(seed: int) -> list:
    return tiny.conditioning(model(), seed)


def invert(of=None, **inputs):
    """A chain, all of whose steps are solved, and its noise."""
    widgets = {"steps": STEPS, "solver": "anderson", "iterations": 30, "features": "cached"}
    return graph.invert(of or model(), tiny.latent(4, size=8), prompt(1), **{**widgets, **inputs})


def run(chain, features="cached", of=None, **patch):
    """The samples, and the rows of every model call, the photo's apart."""
    with spies.photos_apart(), spies.model_rows(of or model()) as calls:
        patched = graph.patch(of or model(), chain, features=features, **patch)
        samples = graph.rival_sample(patched, chain, prompt(3), prompt(2))
    return samples, [rows for rows, _ in calls]


def computed(chain, features="cached", **patch):
    """(what a first run without a handover keeps, by place; its samples)"""
    handed = dict(chain.features.rows)
    chain.features.rows.clear()
    samples, _ = run(chain, features, **patch)
    rows = dict(chain.features.rows)
    chain.features.rows = handed
    return rows, samples


@pytest.mark.parametrize("solver", [pytest.param("anderson", marks=pytest.mark.host),
                                    "fixed_point", "empirical"])  # fmt: skip
def test_the_first_run_pays_no_row_and_equals_live_within_the_residual(solver):
    chain, _ = invert(solver=solver)
    residual = float(chain.residuals.max())
    assert 0 < residual < 1e-4
    live, _ = run(chain, "live")
    first, calls = run(chain)
    assert calls == [2] * STEPS
    assert graph.relative(first, live) < 10 * residual
    rows, samples = computed(chain)
    assert torch.equal(samples, live)
    assert rows.keys() == chain.features.rows.keys() and len(rows) == STEPS
    for place, row in chain.features.rows.items():
        own = float(chain.residuals[place[0] - 1])
        assert set(row.tokens) == set(rows[place].tokens) == chain.model.every_layer
        for layer, ((tokens,),) in row.tokens.items():
            assert graph.relative(tokens, rows[place].tokens[layer][0][0]) < 10 * own + 1e-6


def test_with_a_tight_tolerance_it_equals_live():
    """Only what float32 rounds is left, in every token and in the predicted noise."""
    chain, _ = invert(tolerance=1e-7, iterations=60)
    first, calls = run(chain)
    assert calls == [2] * STEPS and graph.relative(first, run(chain, "live")[0]) < 1e-5
    rows, _ = computed(chain)
    for place, row in rows.items():
        if row.eps is not None:
            assert graph.relative(chain.features.rows[place].eps, row.eps) < 1e-4


def test_the_inversion_is_the_same_and_takes_no_more_calls():
    with spies.model_rows(model()) as calls:
        chain, noise = invert(features="live")
    with spies.model_rows(model()) as again:
        watched, same_noise = invert()
    assert again == calls
    assert torch.equal(watched.latents, chain.latents)
    assert torch.equal(noise["samples"], same_noise["samples"])
    assert not chain.features.rows


@pytest.mark.parametrize("tolerance", [1e-7, 3e-4])
def test_steps_that_are_not_solved_run_live_once(tolerance):
    """By the residual that was reached, not by the tolerance that was asked for."""
    chain, _ = invert(iterations=5, tolerance=tolerance)
    near = (chain.residuals <= 1e-4).tolist()
    assert 0 < sum(near) < STEPS
    assert {place for place, _ in chain.features.rows} == {i for i, n in enumerate(near, 1) if n}
    live, _ = run(chain, "live")
    first, calls = run(chain)
    assert calls.count(1) == STEPS - sum(near) and graph.relative(first, live) < 1e-3
    assert run(chain)[1] == [2] * STEPS


def test_tolerance_0_hands_over_too():
    chain, _ = invert(tolerance=0.0, iterations=8)
    near = int((chain.residuals <= 1e-4).sum())
    assert len(chain.features.rows) == near > STEPS / 2


def test_another_negative_runs_live_once():
    """An unguided inversion never sees it."""
    chain, _ = invert(negative=prompt(2))
    assert {row for _, row in chain.features.rows} == {"positive"}
    live, _ = run(chain, "live")
    first, calls = run(chain)
    assert calls == [1, 2] * STEPS and graph.relative(first, live) < 1e-3
    assert run(chain)[1] == [2] * STEPS


def test_a_guided_inversion_hands_over_both_rows_but_not_its_guided_noise():
    chain, _ = invert(negative=prompt(2), cfg=1.5, iterations=40)
    assert not chain.unsolved
    assert chain.features.rows.keys() == {
        (place, row) for place in range(1, STEPS + 1) for row in ("positive", "negative")
    }
    assert all(row.eps is None for row in chain.features.rows.values())
    live, _ = run(chain, "live")
    first, calls = run(chain)
    normalized = calls.count(1)
    assert 0 < normalized < STEPS and len(calls) == STEPS + normalized
    assert graph.relative(first, live) < 1e-3


def test_int8_is_what_a_first_run_would_keep():
    chain, _ = invert(features="cached_int8", tolerance=1e-7, iterations=60)
    first, calls = run(chain, "cached_int8")
    assert calls == [2] * STEPS
    rows, samples = computed(chain, "cached_int8")
    assert graph.relative(first, samples) < 5e-3
    for place, row in rows.items():
        for layer, ((whole, scale),) in row.tokens.items():
            ((handed, handed_scale),) = chain.features.rows[place].tokens[layer]
            assert handed.dtype == torch.int8 and handed_scale.dtype == scale.dtype
            assert (handed.int() - whole.int()).abs().max() <= 1


def test_features_of_another_kind_are_said_and_made_anew(caplog):
    chain, _ = invert(features="cached_int8")
    for features in ("cached", "live"):
        caplog.clear()
        _, calls = run(chain, features)
        assert calls == [1, 2] * STEPS
        if features == "cached":
            assert any("keeps 'cached_int8' features" in m for m in caplog.messages)
            assert chain.features.kept_as == "cached"
        else:
            assert any("not read where features is 'live'" in m for m in caplog.messages)
    caplog.clear()
    assert run(chain, "cached")[1] == [2] * STEPS and not caplog.messages


def test_another_model_does_not_read_it():
    chain, _ = invert()
    other = tiny.calm(tiny.build("sd15", seed=8, levels=1))
    samples, calls = run(chain, of=other)
    assert calls == [1, 2] * STEPS
    assert torch.equal(samples, run(chain, "live", of=other)[0])


@pytest.mark.host
def test_beside_nodes_that_change_the_model_nothing_is_kept_and_it_is_said(
    caplog, monkeypatch
):
    from comfyui_rival.nodes import host

    monkeypatch.setattr(host, "room_for_features", None)  # whoever stores asks for room
    patched = model().clone()
    patched.set_model_output_block_patch(lambda h, hsp, options: (1.01 * h, hsp))
    chain, text = told(patched)
    assert not chain.features.rows and "patches: output_block_patch" in text
    assert any("nothing was kept" in r.message for r in caplog.records if r.levelname == "WARNING")
    monkeypatch.undo()
    assert run(chain, of=patched)[1] == [1, 2] * STEPS


def told(of=None, **inputs):
    """(the chain, the lines on the node)"""
    from comfyui_rival.nodes import RivalInvert

    widgets = {"steps": STEPS, "schedule": "rival", "solver": "anderson", "iterations": 30,
               "tolerance": 1e-4, "cfg": 1.0, "anderson_window": 1, "anderson_mixing": 1.0,
               "features": "cached"}
    output = RivalInvert.execute(
        of or model(), tiny.latent(4, size=8), prompt(1), **{**widgets, **inputs})
    return output.args[0], output.ui.as_dict()["text"][0]


def test_the_node_says_what_is_kept():
    chain, text = told()
    size = sum(row.nbytes for row in chain.features.rows.values())
    assert f"features of {STEPS} of {STEPS} steps are kept, {size / 1e6:.0f} MB" in text
    assert size == chain.features.nbytes > 1e5
    assert chain.get_ram_usage() > size
    assert "features" not in told(features="live")[1]


def test_no_room_is_refused_at_the_first_step(monkeypatch):
    from comfyui_rival.nodes import host

    monkeypatch.setattr(host, "room_for_features", lambda *_: [(torch.device("cpu"), 1000)])
    sentence = r"^RIVAL Invert: features is 'cached', .* GB.*smaller photo, fewer steps.*live\.$"
    with spies.model_rows(model()) as calls, pytest.raises(ValueError, match=sentence):
        invert()
    assert len({sigma for _, sigma in calls}) == 1


def test_the_bytes_are_known_at_the_first_step(monkeypatch):
    from comfyui_rival.nodes.steering import handover

    asked, choose = [], handover.choose_place
    monkeypatch.setattr(
        handover, "choose_place", lambda size, *args: asked.append(size) or choose(size, *args))
    chain, _ = invert()
    assert asked == [pytest.approx(chain.features.nbytes, rel=0.02)]


def test_only_the_last_evaluation_of_one_step_is_held(monkeypatch):
    """Whole steps are kept; of earlier evaluations nothing is left, nor after the node."""
    import gc
    import weakref

    from comfyui_rival.nodes.steering import recorder

    seen, keep = [], recorder.Recorder.keep

    def watched(self, layer, rows, context, *rest):
        keep(self, layer, rows, context, *rest)
        seen.append(weakref.ref(context))

    monkeypatch.setattr(recorder.Recorder, "keep", watched)
    chain, _ = invert()
    gc.collect()
    alive = sum(ref() is not None for ref in seen)
    layers = len(chain.model.every_layer)
    assert len(seen) > 2 * STEPS * layers and alive <= STEPS * layers


@pytest.mark.parametrize("inputs, sentence", [
    ({"solver": "ddim"}, "features is 'cached', and the solver ddim never sees .*anderson"),
    ({"solver": "uni_inv"}, "features is 'cached', and the solver uni_inv never .*anderson"),
    ({"features": "disk"}, "features is 'disk': choose one of live, cached, cached_int8"),
])  # fmt: skip
def test_bad_input(inputs, sentence):
    with spies.model_rows(model()) as calls, pytest.raises(ValueError, match="^RIVAL Invert: "
                                                           + sentence):
        invert(**inputs)
    assert not calls
