"""denoise below 1: variations that walk only the last part of the chain."""

from __future__ import annotations

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.sampling.noise import partial_latents

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.calm(tiny.build("sd15", levels=1))
    prompt = tiny.conditioning(model, 1)
    photo = tiny.latent(2, size=8)
    chain, _ = graph.invert(model, photo, prompt, steps=20, solver="anderson", iterations=10)
    return {"model": model, "prompt": prompt, "photo": photo, "chain": chain}


def sample(setup, **inputs):
    return graph.rival_sample(setup["model"], setup["chain"], *[setup["prompt"]] * 2, **inputs)


def test_from_the_chain_itself_every_level_leads_back_to_the_photo(setup):
    for denoise in (0.2, 0.5, 0.9, 1.0):
        back = sample(setup, denoise=denoise, start="inverted", cfg=1.0)
        assert graph.relative(back, setup["photo"]["samples"]) < 1e-3


def test_only_the_last_steps_are_walked(setup):
    for denoise, steps in ((1.0, 20), (0.5, 10), (0.26, 5), (0.01, 1)):
        with spies.model_rows(setup["model"]) as rows:
            sample(setup, denoise=denoise, cfg=1.0)
        assert len(rows) == steps
    with spies.model_rows(setup["model"]) as rows:
        sample(setup, denoise=0.5, cfg=1.0, sampler_name="euler_ancestral")
    assert len(rows) == 11, "a sampler that draws noise ends at zero here as well"


def test_less_denoise_stays_nearer_to_the_photo(setup):
    patched = {**setup, "model": graph.patch(setup["model"], setup["chain"])}
    photo = setup["photo"]["samples"]
    away = [graph.relative(sample(patched, denoise=d, seed=3), photo) for d in (0.1, 0.4, 0.8)]
    assert 0 < away[0] < away[1] < away[2]


@pytest.mark.parametrize("start", ["shuffle", "gaussian"])
def test_the_photo_stays_and_its_noise_is_drawn_anew(setup, start):
    chain = setup["chain"]
    sigma = float(chain.sigmas[9])
    latents = partial_latents(chain, sigma, [0, 1], 5, start)
    assert graph.relative(latents[0], latents[1]) > 0.1
    noise, own = (latents - chain.clean) / sigma, (chain.latents[9] - chain.clean) / sigma
    if start == "shuffle":
        vectors = {tuple(round(float(c), 3) for c in v) for v in own[0].flatten(1).T}
        assert {tuple(round(float(c), 3) for c in v) for v in noise[0].flatten(1).T} == vectors
    else:
        assert noise.std() == pytest.approx(float(own.std()), rel=0.2)
    assert torch.equal(partial_latents(chain, sigma, [1], 5, start), latents[1:])


def test_a_flow_keeps_its_share_of_the_photo(setup):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = ModelSamplingSD3().patch(setup["model"], 3.0)[0]
    chain, _ = graph.invert(flow, setup["photo"], setup["prompt"], steps=20, solver="anderson",
                            iterations=20)
    back = graph.rival_sample(flow, chain, *[setup["prompt"]] * 2, denoise=0.5, cfg=1.0,
                              start="inverted")
    assert graph.relative(back, setup["photo"]["samples"]) < 1e-2


@pytest.mark.parametrize("denoise", [0.0, -1.0, 1.5, float("nan")])
def test_denoise_outside_its_range(setup, denoise):
    with pytest.raises(ValueError, match=rf"^RIVAL KSampler: denoise is {denoise}.*\.$"):
        sample(setup, denoise=denoise)


def test_another_size_has_no_photo_to_stay_near(setup):
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: denoise is below 1.*\(6, 8\).*\.$"):
        sample(setup, denoise=0.5, latent={"samples": torch.zeros(1, 4, 6, 8)})
