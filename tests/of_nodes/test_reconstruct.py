"""RIVAL Reconstruct and the exact solvers on the host's own UNet with strong attention."""

from __future__ import annotations

import math

import graph
import pytest
import spies
import torch

pytestmark = pytest.mark.any_host


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.calm(tiny.build("sd15", levels=1))
    return {"model": model, "photo": tiny.latent(2, size=8), "prompt": tiny.conditioning(model, 1)}


def reconstruct(model, chain, **inputs):
    """(latent, relative MSE, PSNR, report) of RIVAL Reconstruct."""
    from comfyui_rival.nodes import RivalReconstruct

    return RivalReconstruct.execute(model, chain, **inputs).args


def round_trip(setup, **inverted) -> float:
    chain, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], **inverted)
    return reconstruct(setup["model"], chain)[1]


def test_anderson_is_exact_in_few_steps_and_ddim_is_not(setup):
    assert round_trip(setup, steps=20, solver="anderson") < 1e-5
    assert round_trip(setup, steps=20) > 0.02
    assert round_trip(setup, steps=10, solver="anderson") < 1e-3


@pytest.mark.parametrize("family", ["sd2_v", "sdxl"])
def test_other_parameterisations(family):
    import tiny

    model = tiny.calm(tiny.build(family, levels=1))
    setup = {"model": model, "photo": tiny.latent(2, size=8),
             "prompt": tiny.conditioning(model, 1)}
    exact = round_trip(setup, steps=20, solver="anderson")
    assert exact < 5e-4 and exact < round_trip(setup, steps=20) / 100


def test_a_model_sampled_as_a_flow(setup):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = {**setup, "model": ModelSamplingSD3().patch(setup["model"], 3.0)[0]}
    exact = round_trip(flow, steps=20, solver="anderson", iterations=8)
    assert exact < 1e-4 and exact < round_trip(flow, steps=20) / 100


def test_a_flow_that_ends_above_the_image(setup):
    """The host takes the share of noise out of what it gives back; the chain never put it in."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = {**setup, "model": ModelSamplingSD3().patch(setup["model"], 3.0)[0]}
    sigmas = torch.linspace(0.95, 0.1, 20)
    assert round_trip(flow, sigmas=sigmas, solver="anderson", iterations=8) < 1e-4


@pytest.mark.host
@pytest.mark.parametrize("solver, calls", [("ddim", 1), ("fixed_point", 3), ("anderson", 3),
                                           ("empirical", 3)])
def test_model_calls_are_counted_exactly(setup, solver, calls):
    with spies.model_rows(setup["model"]) as rows:
        chain, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], steps=5,
                                solver=solver, iterations=3, tolerance=0.0)
    assert len(rows) == chain.evaluations == 5 * calls
    assert chain.calls.tolist() == [calls] * 5 and chain.residuals.shape == (5,)


def test_the_node_says_what_it_measured_and_what_did_not_converge(setup, caplog):
    from comfyui_rival.nodes import RivalInvert

    output = RivalInvert.execute(
        setup["model"], setup["photo"], setup["prompt"], 5, "rival", "fixed_point", 2, 1e-9, 1.0,
        1, 1.0)
    shown = output.ui.as_dict()["text"][0]
    assert "did not converge at 5 of 5 steps" in shown and "solver anderson" in shown
    assert "at worst (step" in shown
    with caplog.at_level("INFO"):
        graph.invert(setup["model"], setup["photo"], setup["prompt"], steps=5)
    assert "step  sigma     residual  calls" in caplog.text


def test_a_solved_inversion_warns_of_nothing(setup, caplog):
    chain, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], steps=20,
                            solver="anderson", iterations=30)
    assert chain.unsolved == [] and "converge" not in caplog.text
    assert chain.calls.max() < 30


@pytest.mark.host
def test_guidance_while_inverting_warns_when_it_does_not_converge(setup, caplog):
    import tiny

    negative = tiny.conditioning(setup["model"], 7)
    inverted = {"negative": negative, "cfg": 7.5, "steps": 5, "solver": "fixed_point"}
    with spies.model_rows(setup["model"]) as rows:
        chain, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], **inverted)
    assert "set cfg to 1" in caplog.text
    assert sum(n for n, _ in rows) == chain.evaluations == 2 * int(chain.calls.sum())


def test_a_guided_chain_is_replayed_with_its_guidance(setup):
    import tiny

    negative = tiny.conditioning(setup["model"], 7)
    inverted = {"negative": negative, "cfg": 2.0, "steps": 20, "solver": "anderson",
                "iterations": 20, "tolerance": 1e-6}
    assert round_trip(setup, **inverted) < 1e-5


@pytest.mark.host
def test_interrupted_inside_an_iteration(setup):
    """Nothing is left behind: the model still inverts to the same chain."""
    import comfy.model_management

    stop = comfy.model_management.InterruptProcessingException
    inverted = {"steps": 5, "solver": "anderson"}
    before, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], **inverted)
    with spies.model_rows(setup["model"], 8, stop) as rows, pytest.raises(stop):
        graph.invert(setup["model"], setup["photo"], setup["prompt"], **inverted)
    assert len(rows) == 8
    after, _ = graph.invert(setup["model"], setup["photo"], setup["prompt"], **inverted)
    assert torch.equal(before.latents, after.latents)


def test_nan_in_a_later_iteration_names_it(setup, monkeypatch):
    base, calls = setup["model"].model, []
    original = base._apply_model

    def breaks(x, *args, **kwargs):
        calls.append(1)
        return original(x, *args, **kwargs) * (math.nan if len(calls) == 8 else 1.0)

    monkeypatch.setattr(base, "_apply_model", breaks)
    with pytest.raises(ValueError, match=r"^RIVAL Invert: .*step 2 of 5, iteration 3.*\.$"):
        graph.invert(setup["model"], setup["photo"], setup["prompt"], steps=5, solver="anderson",
                     tolerance=0.0)


class MosaicVAE:
    """Decodes a latent to a picture of 8 x 8 blocks."""

    def decode(self, samples):
        pixels = samples[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (pixels * 0.1 + 0.5).movedim(1, -1)


def test_pictures_are_compared_where_there_is_a_vae(setup):
    model, photo = setup["model"], setup["photo"]
    chain, _ = graph.invert(model, photo, setup["prompt"], steps=5)
    latent, relative, psnr, report = reconstruct(model, chain)
    error = (latent["samples"] - photo["samples"]).square().mean()
    assert relative == pytest.approx(float(error / photo["samples"].square().mean()), rel=1e-3)
    assert "image" not in report and f"{psnr:.1f} dB" in report
    picture = MosaicVAE().decode(photo["samples"])
    *_, decoded, report = reconstruct(model, chain, vae=MosaicVAE())
    mse = (MosaicVAE().decode(latent["samples"]) - picture).square().mean()
    expected = 10 * math.log10(1 / mse)
    assert decoded == pytest.approx(expected, rel=1e-3) and "image: MSE" in report
    padded = torch.nn.functional.pad(picture, (0, 0, 3, 4, 1, 2))
    assert reconstruct(model, chain, vae=MosaicVAE(), image=padded)[2] == pytest.approx(decoded)


def test_bad_input(setup):
    model, prompt = setup["model"], setup["prompt"]
    chain, _ = graph.invert(model, setup["photo"], prompt, steps=5)
    picture = torch.zeros(1, 64, 80, 3)
    with pytest.raises(ValueError, match=r"^RIVAL Reconstruct: .*RIVAL Patch Model.*\.$"):
        reconstruct(graph.patch(model, chain), chain)
    with pytest.raises(ValueError, match=r"^RIVAL Reconstruct: .*VAE.*\.$"):
        reconstruct(model, chain, image=picture)
    with pytest.raises(ValueError, match=r"^RIVAL Reconstruct: .*\[1, 64, 80\].*\.$"):
        reconstruct(model, chain, image=picture, vae=MosaicVAE())
