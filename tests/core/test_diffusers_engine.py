"""The diffusers engine by itself: what must hold of the nodes holds here, with no ComfyUI."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import Model, Prompt
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.inversion.schedule import rival_sigmas
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from tiny_diffusers import (
    CAPTION,
    EMPTY,
    EPS,
    NEGATIVE,
    SD,
    V,
    build,
    diffusers,
    photo,
    prompt,
    relative,
)  # fmt: skip

SEED = 7
STEPS = 10
OFF = {
    "strength 0": {"strength": 0.0},
    "gates empty": {"gates": Gates(inject_end=0.0, normalize_end=0.0)},
    "starts after the end": {"gates": Gates(inject_start=1.0, normalize_end=0.0)},
}


@pytest.fixture(scope="module")
def model():
    return Model(build())


@pytest.fixture(scope="module")
def chain(model):
    return engine.invert(model, photo(), EMPTY, STEPS)


@pytest.fixture(scope="module")
def pair(model):
    return engine.invert(model, photo(), CAPTION, STEPS, EMPTY)


def sample(model, chain, exemplars=None, **options):
    given = [Exemplar(chain)] if exemplars is None else exemplars
    return engine.sample(model, chain, given, CAPTION, NEGATIVE, **{"seed": SEED, **options})


@contextmanager
def calls(model, fail_at=None, error=RuntimeError):
    """A list that receives the rows of every UNet call; may raise at the n-th call."""
    rows = []

    def watch(_, inputs):
        rows.append(len(inputs[0]))
        if len(rows) == fail_at:
            raise error("stopped by the test")

    handle = model.unet.register_forward_pre_hook(watch)
    try:
        yield rows
    finally:
        handle.remove()


def test_the_exemplar_is_the_chain_bitwise_at_every_step(model, chain, monkeypatch):
    seen, original = [], Model.denoise

    def watched(self, x, sigma, prompts):
        seen.append((x.clone(), sigma, prompts))
        return original(self, x, sigma, prompts)

    monkeypatch.setattr(Model, "denoise", watched)
    sample(model, chain)
    exemplar = [(x, sigma) for x, sigma, prompts in seen if prompts == [EMPTY]]
    assert [sigma for _, sigma in exemplar] == chain.sigmas.flip(0).tolist()[:STEPS]
    assert all(
        torch.equal(x, latent[None]) for (x, _), latent in zip(exemplar, chain.latents.flip(0))
    )


@pytest.mark.parametrize("name", OFF)
def test_injecting_nothing_is_plain_sampling_bitwise(model, chain, name):
    plain = sample(model, chain, [])
    with calls(model) as rows:
        assert torch.equal(sample(model, chain, [Exemplar(chain, **OFF[name])]), plain)
    assert rows == [2] * STEPS
    assert relative(sample(model, chain), plain) > 0.1


@pytest.mark.parametrize("gates", [Gates(replace_end=0.0), Gates(replace_end=1.0)])
def test_strength_goes_smoothly_from_plain_to_rival(model, pair, gates):
    """Between its ends another path computes attention, and must meet both of them."""
    none, little, half, much, all_ = (
        sample(model, pair, [Exemplar(pair, gates, strength)])
        for strength in (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0)
    )
    assert relative(little, none) < 1e-4 and relative(much, all_) < 1e-4
    assert relative(half, none) > 1e-2 and relative(half, all_) > 1e-2


@pytest.mark.parametrize("ends", ["well", "in an error", "by an interrupt", "in a callback"])
def test_the_unet_gets_its_own_processors_back(model, chain, ends):
    before, plain = model.unet.attn_processors, sample(model, chain, [])

    def stop(state):
        assert model.unet.attn_processors != before, "nothing was hooked"
        if state["i"] == 3:
            raise KeyboardInterrupt

    if ends == "well":
        sample(model, chain)
    elif ends == "in a callback":
        with pytest.raises(KeyboardInterrupt):
            sample(model, chain, callback=stop)
    else:
        error = RuntimeError if ends == "in an error" else KeyboardInterrupt
        with calls(model, 7, error), pytest.raises(error):
            sample(model, chain)
    after = model.unet.attn_processors
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert torch.equal(sample(model, chain, []), plain)


@pytest.mark.parametrize("variations", [1, 3])
@pytest.mark.parametrize("which, rows", [("chain", 1), ("pair", 2)])
def test_one_exemplar_row_a_step_whatever_the_batch(model, which, rows, variations, request):
    with calls(model) as seen:
        sample(model, request.getfixturevalue(which), draws=range(variations))
    assert seen == [rows, 2 * variations] * STEPS


def test_no_exemplar_row_outside_the_gates(model, pair):
    """10 steps at t = 901, 801, ...: reading from 701 to 401, normalising down to 801."""
    gates = Gates(inject_start=0.3, replace_end=0.3, inject_end=0.6, normalize_end=0.25)
    with calls(model) as rows:
        sample(model, pair, [Exemplar(pair, gates)])
    assert rows == [1, 2] * 2 + [2, 2] * 4 + [2] * 4


def test_without_guidance_only_conditional_rows_run(model, pair):
    with calls(model) as rows:
        sample(model, pair, cfg=1.0)
    assert rows == [1, 1] * STEPS


def test_inversion_costs_one_row_a_step(model):
    with calls(model) as rows:
        assert engine.invert(model, photo(), EMPTY, STEPS).evaluations == STEPS
    assert rows == [1] * STEPS


@pytest.mark.parametrize("size", [None, (6, 10)])
@pytest.mark.parametrize("start", ["shuffle", "gaussian"])
def test_variations_are_single_runs_side_by_side(model, pair, start, size):
    batch = sample(model, pair, draws=range(3), start=start, size=size)
    assert batch.shape[2:] == (size or (8, 8))
    for i in range(3):
        single = sample(model, pair, draws=[i], start=start, size=size)
        assert relative(single[0], batch[i]) < 1e-5
    assert relative(batch[0], batch[1]) > 0.1


def test_a_variation_from_the_exemplar_itself_is_the_plain_sample(model, chain):
    """Same latent, same prompt, one step: duplicate keys leave attention unchanged."""
    sigmas = chain.falling_sigmas()[:2]
    plain, *aligned = (
        engine.sample_euler(model, chain.end, sigmas, EMPTY, exemplars=exemplars)
        for exemplars in (
            [],
            [Exemplar(chain, Gates(replace_end=0.0, normalize_end=0.0))],
            [Exemplar(chain, Gates(replace_end=1.0, normalize_end=0.0))],
        )
    )
    assert all(relative(x, plain) < 1e-5 for x in aligned)


def test_two_exemplars_act_as_one_in_either_order(model, chain, pair):
    a, b = Exemplar(chain, Gates(replace_end=0.8), 0.5), Exemplar(pair)
    both = sample(model, chain, [a, b])
    assert relative(sample(model, chain, [b, a]), both) < 1e-4
    assert relative(sample(model, chain, [b]), both) > 1e-2


def test_texts_of_different_lengths_share_a_call(model, chain):
    """A repeated text is the same text, so six tokens fit beside four."""
    short = prompt(4, tokens=4)
    long = Prompt(short.tokens.repeat(1, 3, 1))
    one, other = (
        engine.sample(model, chain, [Exemplar(chain)], CAPTION, negative, seed=SEED)
        for negative in (short, long)
    )
    assert relative(one, other) < 1e-4


def test_the_scheduler_says_what_the_model_predicts_and_when(model, chain):
    zero_snr = diffusers.DDIMScheduler(**SD, rescale_betas_zero_snr=True)
    assert torch.allclose(
        Model(model.unet, EPS).timesteps.sigmas, model.timesteps.sigmas, rtol=1e-6
    )
    assert not torch.allclose(
        rival_sigmas(Model(model.unet, zero_snr).timesteps, STEPS), chain.falling_sigmas(), rtol=0.1
    )
    other = engine.invert(Model(model.unet, V), photo(), EMPTY, STEPS)
    assert relative(other.latents, chain.latents) > 0.1


def test_chains_are_float32_whatever_the_model_runs_in(chain):
    half = Model(build().bfloat16())
    other = engine.invert(half, photo(), EMPTY, STEPS)
    assert other.latents.dtype == torch.float32 and relative(other.latents, chain.latents) < 0.1
    out = sample(half, other, draws=range(2))
    assert out.dtype == torch.float32 and torch.isfinite(out).all()


def test_what_cannot_be_served_is_refused(model, chain):
    stranger = engine.invert(Model(build(block_out_channels=(32, 96))), photo(), EMPTY, 5)
    pixels = diffusers.DDIMScheduler(prediction_type="sample")
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    sdxl = Model(build(**added, projection_class_embeddings_input_dim=80))
    for words, attempt in {
        "not supported": lambda: Model(build(in_channels=9)),
        "1000 betas and prediction_type sample": lambda: Model(model.unet, pixels),
        "100 betas": lambda: Model(model.unet, diffusers.DDIMScheduler(100)),
        "with 0 betas": lambda: Model(model.unet, diffusers.EDMEulerScheduler()),
        "another model": lambda: sample(model, chain, [Exemplar(stranger)]),
        "another model's": lambda: sample(model, stranger, []),
        "no negative": lambda: engine.sample(model, chain, [], CAPTION),
        "one image": lambda: engine.invert(model, photo().repeat(2, 1, 1, 1), EMPTY),
        "pooled": lambda: engine.invert(sdxl, photo(), EMPTY, 5),
        "strength is 1.5": lambda: Exemplar(chain, strength=1.5),
    }.items():
        with pytest.raises(RivalError, match=words):
            attempt()


@pytest.mark.parametrize("solver", ["obelm", "edict", "edit_friendly", "midpoint", "ddim"])
def test_a_guided_photo_comes_back_where_its_solver_is_exact(model, solver):
    guided = engine.invert(model, photo(), CAPTION, 6, NEGATIVE, 2.0, solver=Solver(solver))
    missed = relative(engine.reconstruct(model, guided), photo())
    assert missed < 1e-4 if guided.solver.is_exact else missed > 0.1
