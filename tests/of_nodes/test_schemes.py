"""Inversion schemes through the nodes: up, and down by the sampler chain."""

from __future__ import annotations

import dits
import graph
import pytest
import spies
import tiny
import tiny_dits
import torch
from schemes import PHOTO, STEPS, chain_by, flow, invert, missed, model, prompt, reconstruct, sample

pytestmark = pytest.mark.any_host
EXACT = ["obelm", "bdia", "edict", "edit_friendly"]


# --- the way back ---------------------------------------------------------------------------------


@pytest.mark.host
@pytest.mark.parametrize("solver", EXACT)
def test_a_guided_inversion_comes_back(solver):
    chain = chain_by(solver)
    latent, mse, _, report = reconstruct(model(), chain).args
    assert mse < 1e-8 and missed(latent["samples"]) < 1e-4
    assert f"{solver}: exact" in report
    assert missed(sample(chain)) < 1e-4
    assert missed(sample(chain, sampler_name="euler")) > 1e-2, "any sampler would do"


@pytest.mark.host
def test_the_caption_as_the_negative_brings_the_photo_back_at_any_cfg():
    """Negative-Prompt Inversion: from a chain that was not guided itself."""
    chain = invert("obelm", cfg=1.0, negative=None)
    assert missed(sample(chain, negative=prompt(1), cfg=7.0)) < 1e-4
    assert missed(sample(chain, cfg=7.0)) > 1e-2, "any negative would do"


@pytest.mark.host
@pytest.mark.parametrize("solver", ["obelm", "bdia", "edict"])
def test_a_flow_comes_back(solver):
    """From sigma 1 to 0, both exactly."""
    chain = invert(solver, flow(), schedule="simple")
    assert float(chain.sigmas[0]) == 0 and chain.top == 1
    assert missed(reconstruct(flow(), chain).args[0]["samples"]) < 1e-4


@pytest.mark.parametrize("family, solver", [("wan", "edict"), ("flux", "obelm")])
def test_a_transformer_comes_back(family, solver):
    """Also one whose latents have time; and its photo steers what walks down."""
    of, caption = dits.model_of(family), dits.prompt(family, 1)
    image = tiny_dits.latent(of, 100)
    chain = graph.invert(of, image, caption, steps=4, solver=solver)[0]
    found = reconstruct(of, chain).args[0]["samples"]
    assert graph.relative(found, image["samples"].view_as(found)) < 1e-4
    inputs = {"sampler_name": "chain", "start": "inverted", "cfg": 1.0}
    plain = dits.sample(family, chain, model=of, **inputs)
    steered = dits.sample(family, chain, dits.REPLACE, **inputs)
    assert graph.relative(steered, plain) > 1e-3


@pytest.mark.parametrize("solver", EXACT)
def test_a_v_model_that_walks_to_0_comes_back(solver):
    v = model("sd2_v")
    caption = tiny.conditioning(v, 1)
    chain = graph.invert(v, PHOTO, caption, steps=STEPS, solver=solver, schedule="sgm_uniform")[0]
    assert missed(reconstruct(v, chain).args[0]["samples"]) < 1e-4


@pytest.mark.parametrize("solver", EXACT)
def test_from_a_lower_level_and_in_a_batch(solver):
    """With denoise below 1 the walk begins at the chain's own latent there; so for every item."""
    samples = sample(chain_by(solver), denoise=0.5, batch_size=2)
    assert len(samples) == 2 and missed(samples) < 1e-4


def test_the_photo_in_latent_is_the_same_as_none():
    assert missed(sample(chain_by("edit_friendly"), denoise=0.5, latent=PHOTO)) < 1e-4


@pytest.mark.parametrize("solver", ["midpoint", "fireflow", "rf_inversion"])
def test_schemes_that_are_near(solver):
    """Each by its own walk: RF-Inversion's is Euler's."""
    of = flow() if solver == "rf_inversion" else model()
    chain = invert(solver, of, cfg=1.0, steps=20)
    found = missed(sample(chain, of, cfg=1.0))
    euler = missed(sample(chain, of, cfg=1.0, sampler_name="euler"))
    assert abs(found - euler) < 1e-5 if solver == "rf_inversion" else found < euler / 10


def test_of_other_solvers_chain_is_euler_bitwise():
    chain = chain_by("ddim")
    assert torch.equal(sample(chain), sample(chain, sampler_name="euler"))


@pytest.mark.parametrize("solver", ["obelm", "edict"])
def test_other_starts(solver):
    """Seeded, each draw its own, whatever the batch; and a picture that is not the photo."""
    chain = chain_by(solver)
    pair = sample(chain, start="shuffle", seed=4, batch_size=2)
    alone = sample(chain, start="shuffle", seed=4)
    assert graph.relative(pair[:1], alone) < 1e-4 and graph.relative(pair[1:], alone) > 0.1
    assert torch.isfinite(sample(chain, start="gaussian", denoise=0.5)).all()
    other = sample(chain, denoise=0.5, latent=tiny.latent(9, size=8))
    assert missed(other) > 0.1, "the photo's second latent was taken for another picture's"


@pytest.mark.host
@pytest.mark.parametrize("solver", ["obelm", "edict"])
def test_a_patched_model_is_walked_and_asked_at_the_chains_own_levels(solver):
    chain = chain_by(solver)
    patched = graph.patch(model(), chain)
    with spies.model_rows(model()) as calls:
        steered = sample(chain, patched)
    levels = chain.sigmas.tolist()
    assert {sigma for _, sigma in calls} <= {*levels[1:]}
    assert torch.isfinite(steered).all() and graph.relative(steered, sample(chain)) > 1e-3
    plain = graph.patch(model(), chain, strength=0.0)
    assert torch.equal(sample(chain, plain), sample(chain))


@pytest.mark.host
def test_interrupted_on_the_way_down():
    import comfy.model_management

    stop = comfy.model_management.InterruptProcessingException
    chain, before = chain_by("edict"), sample(chain_by("edict"))
    with spies.model_rows(model(), 5, stop) as calls, pytest.raises(stop):
        sample(chain)
    assert len(calls) == 5 and torch.equal(sample(chain), before)


@pytest.mark.parametrize("solver, up, down", [("obelm", STEPS, STEPS - 1), ("edict", 12, 12)])
def test_progress_and_previews(solver, up, down, monkeypatch):
    """Every call is told, in order and never past the end."""
    import latent_preview

    told = []

    def prepare(model, steps, *_):
        return lambda step, denoised, x, total: told.append((step, total, denoised.shape))

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare)
    chain = invert(solver)
    assert [step for step, *_ in told] == [*range(up)] and {n for _, n, _ in told} == {up}
    told.clear()
    sample(chain)
    steps = [step for step, *_ in told]
    assert len(told) == down and steps == sorted(steps) and max(steps) < STEPS
    assert {n for _, n, _ in told} == {STEPS}


# --- the chain ------------------------------------------------------------------------------------


def test_calls_are_counted_and_nothing_was_solved():
    for solver, calls in (("obelm", 1), ("edict", 2), ("midpoint", 2), ("edit_friendly", 1)):
        with spies.model_rows(model()) as rows:
            chain = invert(solver)
        assert len(rows) == STEPS * calls and chain.calls.tolist() == [calls] * STEPS
        assert chain.residuals is None and not chain.unsolved
        assert chain.evaluations == 2 * STEPS * calls


def test_what_stands_beside_the_latents():
    edict, maps = chain_by("edict"), chain_by("edit_friendly")
    assert edict.partner.shape == edict.latents.shape and edict.noise is None
    assert maps.noise.shape == maps.latents[1:].shape and maps.partner is None
    assert edict.get_ram_usage() > 1.9 * chain_by("obelm").get_ram_usage()


def test_a_saved_chain_walks_down_the_same(tmp_path):
    from comfyui_rival.rival_core.chain.file import load, save

    for solver in ("edict", "edit_friendly"):
        save(chain_by(solver), tmp_path / solver)
        loaded = load(tmp_path / solver).chain
        assert torch.equal(sample(loaded), sample(chain_by(solver)))


def test_seeds_and_couplings():
    one, two = (invert("edit_friendly", seed=seed) for seed in (0, 1))
    assert graph.relative(one.latents[-1], two.latents[-1]) > 0.5
    assert torch.equal(one.latents, chain_by("edit_friendly").latents)
    assert missed(sample(two)) < 1e-4
    loose = invert("edict", coupling=0.97)
    assert graph.relative(loose.latents[-1], chain_by("edict").latents[-1]) > 1e-4
    assert missed(sample(loose)) < 1e-4 and loose.solver.coupling == 0.97


@pytest.mark.host
@pytest.mark.parametrize("solver, missing", [("obelm", {STEPS}), ("midpoint", {STEPS}),
                                             ("edit_friendly", set())])
def test_features_are_handed_over_exactly(solver, missing):
    """What was seen at the chain's own latents is what a run beside it would see."""
    inputs = {"cfg": 1.0, "negative": None, "features": "cached"}
    chain = invert(solver, **inputs)
    handed = dict(chain.features.rows)
    assert {place for place, _ in handed} == {*range(1, STEPS + 1)} - missing
    chain.features.rows.clear()
    with spies.photos_apart():
        live = sample(chain, graph.patch(model(), chain, features="cached"))
    rows = chain.features.rows
    asked = rows.keys() & handed.keys()
    assert len(asked) >= STEPS - 1
    for place in asked:
        for layer, ((tokens,),) in rows[place].tokens.items():
            assert graph.relative(handed[place].tokens[layer][0][0], tokens) < 1e-5
        if rows[place].eps is not None:
            assert graph.relative(handed[place].eps, rows[place].eps) < 1e-5
    assert any(row.eps is not None for row in rows.values())
    rows.clear()
    rows.update(handed)
    with spies.photos_apart():
        again = sample(chain, graph.patch(model(), chain, features="cached"))
    assert graph.relative(again, live) < 1e-5


def test_one_step_that_begins_at_0_hands_nothing_over():
    """Its only call is at the photo, relabelled, and not at the chain's latent."""
    chain = invert("obelm", steps=1, schedule="sgm_uniform", cfg=1.0, negative=None,
                   features="cached")
    assert not chain.features.rows


# --- uniform attention ----------------------------------------------------------------------------


def test_uniform_attention_is_the_mean_of_all_words():
    """As cross-attention whose probabilities are all 1 / 77, in every layer."""
    inputs = {"solver": "ddim", "steps": 5, "cfg": 1.0, "negative": None}
    found = graph.invert(model(), PHOTO, prompt(1), caption_attention="uniform", **inputs)[0]

    def alike(q, k, v, options):
        return v.mean(dim=1, keepdim=True).expand(-1, q.shape[1], -1)

    replaced = model().clone()
    for layer in found.model.every_layer:
        (block, number), depth = layer
        replaced.set_model_attn2_replace(alike, block, number, depth)
    wanted = graph.invert(replaced, PHOTO, prompt(1), **inputs)[0]
    words = graph.invert(model(), PHOTO, prompt(1), **inputs)[0]
    assert graph.relative(found.latents[-1], wanted.latents[-1]) < 1e-5
    assert graph.relative(found.latents[-1], words.latents[-1]) > 1e-3
    assert found.positive[0][0].shape[1] == 1
    assert found.positive[0][1].keys() == words.positive[0][1].keys()


@pytest.mark.host
def test_uniform_attention_beside_a_negative_comes_back():
    chain = invert("obelm", caption_attention="uniform")
    assert chain.negative[0][0].shape[1] > 1
    assert missed(reconstruct(model(), chain).args[0]["samples"]) < 1e-4
