"""What must hold on a real ComfyUI, whatever the picture looks like."""

from __future__ import annotations

import gc

import graph
import pytest
import spies
import torch

pytestmark = pytest.mark.host
OFF = {
    "strength 0": {"strength": 0.0},
    "gates empty": {"inject_end": 0.0, "normalize_end": 0.0},
    "starts after the end": {"inject_start": 1.0, "normalize_end": 0.0},
}


@pytest.fixture(scope="module")
def setup():
    import tiny

    return world(tiny.build("sd15", levels=1))


def world(model) -> dict:
    import tiny

    empty, negative, caption = (tiny.conditioning(model, seed) for seed in (1, 2, 3))
    photo = tiny.latent(4, size=8)
    chain, noise = graph.invert(model, photo, empty, steps=10)
    pair, _ = graph.invert(model, photo, caption, negative=empty, steps=10)
    return {
        "model": model,
        "prompts": (caption, negative),
        "chain": chain,
        "pair": pair,
        "noise": noise,
        "photo": photo,
    }


def test_the_exemplar_is_the_chain_bitwise_at_every_step(setup, monkeypatch):
    chain = setup["chain"]
    with spies.exemplar_calls(monkeypatch) as calls:
        graph.rival_sample(graph.patch(setup["model"], chain), chain, *setup["prompts"])
    assert len(calls) == 10
    for (x, sigma, _), latent, level in zip(
        calls, chain.latents.flip(0), chain.sigmas.flip(0).tolist()
    ):
        assert sigma == level and torch.equal(x[0], latent)


@pytest.mark.parametrize("name", OFF)
def test_injecting_nothing_is_the_plain_model_bitwise(setup, name):
    model, chain = setup["model"], setup["chain"]
    plain = graph.rival_sample(model, chain, *setup["prompts"])
    patched = graph.patch(model, chain, **OFF[name])
    with spies.model_rows(model) as calls:
        assert torch.equal(graph.rival_sample(patched, chain, *setup["prompts"]), plain)
    assert [rows for rows, _ in calls] == [2] * 10


def test_full_strength_adds_no_attention(setup):
    """Strength 1 and the parity tests run the same path: no blending function is installed."""
    from comfyui_rival.nodes.host.unet import Lending
    from comfyui_rival.nodes.steering import run as alignment

    step = alignment.Step(1.0, alignment.steering([alignment.Exemplar(setup["chain"])], 500))
    assert Lending(alignment.Reader(step, {}), set()).replaces() == {}


@pytest.mark.parametrize("stop", ["finishes", pytest.param("fails", marks=pytest.mark.any_host),
                                  "is interrupted"])  # fmt: skip
def test_nothing_is_left_on_the_model(setup, stop):
    """Patch, run, remove, run again equals vanilla, however the patched run ended."""
    import comfy.model_management

    model, chain = setup["model"], setup["chain"]
    before = graph.rival_sample(model, chain, *setup["prompts"])
    patched = graph.patch(model, chain)
    errors = {
        "fails": RuntimeError,
        "is interrupted": comfy.model_management.InterruptProcessingException,
    }
    with spies.live_runs() as runs:
        if stop == "finishes":
            graph.rival_sample(patched, chain, *setup["prompts"])
        else:
            with spies.model_rows(model, 7, errors[stop]), pytest.raises(errors[stop]):
                graph.rival_sample(patched, chain, *setup["prompts"])
    gc.collect()
    assert len(runs) == 1 and runs[0]() is None, "the run's state outlived it"
    assert torch.equal(graph.rival_sample(model, chain, *setup["prompts"]), before)
    again = graph.rival_sample(patched, chain, *setup["prompts"])
    assert not torch.equal(again, before)
    assert torch.equal(again, graph.rival_sample(patched, chain, *setup["prompts"]))


def test_a_failed_run_holds_nothing_even_while_its_error_is_kept(setup):
    """A traceback keeps frames alive; the run has let go of its tokens all the same."""
    patched = graph.patch(setup["model"], setup["chain"])
    with (
        spies.live_runs() as runs,
        spies.model_rows(setup["model"], 7),
        pytest.raises(RuntimeError) as kept,
    ):
        graph.rival_sample(patched, setup["chain"], *setup["prompts"])
    run = runs[0]()
    assert kept and run.step is None and not run.conds


@pytest.mark.usefixtures("photos_apart")
def test_tokens_live_for_one_sigma_at_a_time(setup, monkeypatch):
    from comfyui_rival.nodes.steering import run as alignment

    held, original = [], alignment.Run.run_exemplar

    def watched(self, step, *args):
        original(self, step, *args)
        held.append((self.step is step, set(step.tokens)))

    monkeypatch.setattr(alignment.Run, "run_exemplar", watched)
    graph.rival_sample(
        graph.patch(setup["model"], setup["chain"]), setup["chain"], *setup["prompts"]
    )
    assert held == [(True, {(id(setup["chain"]), "positive")})] * 10


def test_patching_leaves_the_given_model_alone(setup):
    model = setup["model"]
    wrappers, options = dict(model.wrappers), dict(model.model_options["transformer_options"])
    patched = graph.patch(model, setup["chain"])
    assert patched is not model and patched.model is model.model
    assert dict(model.wrappers) == wrappers
    assert model.model_options["transformer_options"] == options


@pytest.mark.parametrize("variations", [1, 3])
@pytest.mark.parametrize("which, rows", [("chain", 1), ("pair", 2)])
def test_one_exemplar_row_a_step_whatever_the_batch(setup, which, rows, variations):
    chain = setup[which]
    patched = graph.patch(setup["model"], chain)
    with spies.model_rows(setup["model"]) as calls:
        graph.rival_sample(patched, chain, *setup["prompts"], batch_size=variations)
    assert [n for n, _ in calls] == [rows + 2 * variations] * 10


def test_no_exemplar_row_outside_the_gates(setup):
    """10 steps at t = 901, 801, ...: reading from 701 to 401, normalising down to 801."""
    gates = {"inject_start": 0.3, "replace_end": 0.3, "inject_end": 0.6, "normalize_end": 0.25}
    patched = graph.patch(setup["model"], setup["pair"], **gates)
    with spies.model_rows(setup["model"]) as calls:
        graph.rival_sample(patched, setup["pair"], *setup["prompts"])
    rows = [n for n, _ in calls]
    normalised_only, read, plain = [1 + 2], [2 + 2], [2]
    assert rows == normalised_only * 2 + read * 4 + plain * 4


def test_without_guidance_only_the_conditional_exemplar_runs(setup):
    patched = graph.patch(setup["model"], setup["pair"])
    with spies.model_rows(setup["model"]) as calls:
        graph.rival_sample(patched, setup["pair"], *setup["prompts"], cfg=1.0)
    assert [n for n, _ in calls] == [1 + 1] * 10


def test_inversion_costs_one_row_a_step(setup):
    with spies.model_rows(setup["model"]) as calls:
        chain, _ = graph.invert(setup["model"], setup["photo"], setup["prompts"][0], steps=10)
    assert [n for n, _ in calls] == [1] * 10 and chain.evaluations == 10
    assert [s for _, s in calls] == chain.sigmas[1:].tolist()


def test_a_variation_from_the_exemplar_itself_is_the_plain_sample(setup):
    """Same latent, same prompt, one call: duplicate keys leave attention unchanged."""
    import comfy.samplers

    model, chain = setup["model"], setup["chain"]
    sigma = chain.falling_sigmas()[:2]

    def one_step(model):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(chain.positive, chain.positive)
        noise = chain.end / chain.scaling.noise_scale(chain.top)
        euler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, torch.zeros_like(noise), euler, sigma)

    plain = one_step(model)
    for replace_end in (0.0, 1.0):
        patched = graph.patch(model, chain, replace_end=replace_end, normalize_end=0.0)
        assert graph.relative(one_step(patched), plain) < 1e-5


def test_variations_are_single_runs_side_by_side(setup):
    patched, chain = graph.patch(setup["model"], setup["chain"]), setup["chain"]
    batch = graph.rival_sample(patched, chain, *setup["prompts"], batch_size=3)
    for i in range(3):
        latent = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [i]}
        single = graph.rival_sample(patched, chain, *setup["prompts"], latent=latent)
        assert graph.relative(single[0], batch[i]) < 1e-5


def test_the_noise_output_continues_in_a_core_sampler(setup):
    """Euler back down the chain's sigmas, no noise added, stays near the photo."""
    import comfy.samplers

    chain, noise = setup["chain"], setup["noise"]["samples"]
    guider = comfy.samplers.CFGGuider(setup["model"])
    guider.set_conds(chain.positive, chain.positive)
    model_space = setup["model"].model.process_latent_in(noise)
    assert graph.relative(model_space, chain.end) < 1e-6
    euler = comfy.samplers.sampler_object("euler")
    back = guider.sample(torch.zeros_like(noise), noise, euler, chain.falling_sigmas())
    assert torch.isfinite(back).all()
    assert graph.relative(back, setup["photo"]["samples"]) < graph.relative(
        noise, setup["photo"]["samples"]
    )


GOLDEN = [5.0098, 13.71348, 8.64211, 15.7357, -9.14394, -21.36425, 40.25599, 13.41843]


def test_every_host_gives_the_same_numbers():
    """Seeded weights, chain and variation: the stored values come from ComfyUI 0.3.64."""
    import tiny

    setup = world(tiny.build("sd15"))
    chain = setup["pair"]
    samples = graph.rival_sample(
        graph.patch(setup["model"], chain), chain, *setup["prompts"], seed=5
    )
    values = samples.flatten()[:: samples.numel() // 8]
    assert torch.allclose(values, torch.tensor(GOLDEN), rtol=1e-3, atol=1e-3)
