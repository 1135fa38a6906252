"""Partial noise (eta) in a window of the schedule: edits of one chain that differ (AIDI)."""

from __future__ import annotations

import math

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.inversion.ancestral import ancestral_step
from comfyui_rival.rival_core.sampling.partial_noise import DrawnNoise, sample_euler_partial


def test_steps_are_ddims_with_eta():
    """sigma_up and the remaining noise are DDIM's, in variance-exploding coordinates."""
    for kept, kept_next, eta in ((0.2, 0.5, 0.3), (0.6, 0.9, 1.0), (0.05, 0.06, 0.7)):
        ddim = eta * math.sqrt((1 - kept_next) / (1 - kept)) * math.sqrt(1 - kept / kept_next)
        sigma, target = (math.sqrt((1 - k) / k) for k in (kept, kept_next))
        down, kept, up = ancestral_step(sigma, target, eta)
        assert kept == 1.0
        assert up == pytest.approx(ddim / math.sqrt(kept_next))
        assert down == pytest.approx(math.sqrt((1 - kept_next - ddim**2) / kept_next))
    assert ancestral_step(3.0, 1.0, 0.0) == (1.0, 1.0, 0.0)


def test_the_marginal_stays_that_of_the_data():
    """Data N(0, 1): with the exact denoiser, any eta ends at unit variance."""
    generator = torch.Generator().manual_seed(0)
    sigmas = torch.cat([torch.logspace(1.5, -1.5, 300, dtype=torch.float64), torch.zeros(1)])
    x = sigmas[0] * torch.randn(2000, 1, 4, 4, generator=generator, dtype=torch.float64)
    for eta in (0.0, 0.5, 1.0):
        result = sample_euler_partial(
            lambda x, sigma: x / (1 + sigma[0] ** 2), x, sigmas,
            lambda i: torch.randn(x.shape, generator=generator, dtype=torch.float64),
            lambda sigma: True, eta)
        assert float(result.std()) == pytest.approx(1.0, abs=0.04)


def test_every_draw_has_noise_of_its_own():
    together = DrawnNoise(3, [0, 1, 2], (4, 2, 2))
    alone = DrawnNoise(3, [1], (4, 2, 2))
    for step in range(3):
        noise = together(step)
        assert torch.equal(noise[1:2], alone(step))
        assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(DrawnNoise(4, [1], (4, 2, 2))(0), DrawnNoise(3, [1], (4, 2, 2))(0))


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.calm(tiny.build("sd15", levels=1))
    prompts = [tiny.conditioning(model, i) for i in (1, 2)]
    photo = tiny.latent(2, size=8)
    chain, _ = graph.invert(model, photo, prompts[0], steps=10, solver="anderson")
    return {"model": model, "prompts": prompts, "photo": photo, "chain": chain}


def sample(setup, **inputs):
    return graph.rival_sample(setup["model"], setup["chain"], *setup["prompts"],
                              **{"start": "inverted", **inputs})


pytestmark = pytest.mark.any_host


@pytest.mark.host
def test_seeds_differ_and_single_runs_are_those_of_the_batch(setup):
    batch = sample(setup, eta=0.5, batch_size=3, seed=9)
    assert graph.relative(batch[0], batch[1]) > 0.05
    assert torch.equal(batch, sample(setup, eta=0.5, batch_size=3, seed=9))
    one = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]}
    assert graph.relative(sample(setup, eta=0.5, seed=9, latent=one), batch[2:]) < 1e-5
    assert graph.relative(sample(setup, eta=0.5, seed=8), batch[:1]) > 0.05


def test_more_eta_goes_further_from_the_deterministic_result(setup):
    plain = sample(setup)
    assert torch.equal(plain, sample(setup, eta=0.0, eta_start=0.5, eta_end=0.2))
    away = [graph.relative(sample(setup, eta=eta), plain) for eta in (0.1, 0.4, 1.0)]
    assert away[0] < away[1] < away[2]


def test_noise_is_drawn_in_its_window_only(setup, monkeypatch):
    drawn = []
    original = DrawnNoise.__call__

    def watched(self, step):
        drawn.append(step)
        return original(self, step)

    monkeypatch.setattr(DrawnNoise, "__call__", watched)
    sample(setup, eta=0.5, eta_start=0.3, eta_end=0.6)
    percents = [1 - t / 1000 for t in range(901, 0, -100)]
    assert drawn == [i for i, percent in enumerate(percents) if 0.3 <= percent < 0.6]


def test_fresh_noise_needs_a_last_step_to_zero(setup):
    with spies.model_rows(setup["model"]) as plain:
        sample(setup)
    with spies.model_rows(setup["model"]) as drawn:
        sample(setup, eta=0.2)
    assert (len(plain), len(drawn)) == (10, 11)


def test_eta_steers_with_the_patch_as_well(setup):
    patched = {**setup, "model": graph.patch(setup["model"], setup["chain"])}
    result = sample(patched, eta=0.3, batch_size=2)
    assert torch.isfinite(result).all() and graph.relative(result[0], result[1]) > 0.01


@pytest.mark.parametrize("inputs, said", [
    ({"eta": 1.5}, "eta is 1.5"),
    ({"eta": float("nan")}, "eta is nan"),
    ({"eta": 0.5, "eta_start": -0.1}, "eta_start is -0.1"),
    ({"eta": 0.5, "eta_start": 0.5, "eta_end": 0.5}, "eta_end above eta_start"),
    ({"eta": 0.5, "sampler_name": "dpmpp_2m"}, "choose euler"),
])
def test_bad_input(setup, inputs, said):
    with pytest.raises(ValueError, match=rf"^RIVAL KSampler: .*{said}.*\.$"):
        sample(setup, **inputs)


def test_a_flow_takes_eta_too(setup):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = ModelSamplingSD3().patch(setup["model"], 3.0)[0]
    for schedule in ("rival", "simple"):  # below pure noise, and from it
        chain, _ = graph.invert(flow, setup["photo"], setup["prompts"][0], steps=5,
                                schedule=schedule)
        steered = {**setup, "model": flow, "chain": chain}
        plain, drawn = sample(steered), sample(steered, eta=0.3, batch_size=2)
        assert torch.isfinite(drawn).all() and graph.relative(drawn[0], drawn[1]) > 0.01
        assert graph.relative(drawn[:1], plain) > 0.01
        outside = sample(steered, eta=0.3, eta_start=0.99)
        assert torch.equal(outside, plain)


def test_a_flows_window_begins_at_its_own_step(setup, monkeypatch):
    """Step 2 of 5 is at percent 0.4, of which float32 knows a little less."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow, drawn = ModelSamplingSD3().patch(setup["model"], 8.0)[0], []
    chain, _ = graph.invert(flow, setup["photo"], setup["prompts"][0], steps=5, schedule="simple")
    original = DrawnNoise.__call__
    monkeypatch.setattr(DrawnNoise, "__call__",
                        lambda self, step: drawn.append(step) or original(self, step))
    sample({**setup, "model": flow, "chain": chain}, eta=0.3, eta_start=0.4, eta_end=0.8)
    assert drawn == [2, 3]
