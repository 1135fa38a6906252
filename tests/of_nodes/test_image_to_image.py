"""A picture in RIVAL KSampler's `latent` with denoise below 1: image-to-image beside the photo."""

from __future__ import annotations

import logging
import math

import graph
import pytest
import torch
from comfyui_rival.rival_core.sampling.noise import draw_latents, noise_of, resample, start_latents

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.calm(tiny.build("sd15"))
    prompt = tiny.conditioning(model, 1)
    photo = tiny.latent(2, size=8)
    chain, noise = graph.invert(model, photo, prompt, steps=6)
    return {"model": model, "prompt": prompt, "photo": photo, "chain": chain, "noise": noise,
            "picture": tiny.latent(7, size=8)}


def sample(setup, **inputs):
    inputs = {"denoise": 0.5, "cfg": 1.0, "seed": 3, **inputs}
    return graph.rival_sample(setup["model"], setup["chain"], *[setup["prompt"]] * 2, **inputs)


def start_of(setup, monkeypatch, **inputs):
    """The latents, in the model's space, that the host's sampler begins with."""
    import comfy.samplers

    seen = []

    def euler(model, x, sigmas, **_):
        seen.append(x.clone())
        return x

    monkeypatch.setattr(comfy.samplers, "sampler_object", lambda _: comfy.samplers.KSAMPLER(euler))
    sample(setup, **inputs)
    return seen[0]


def middle(chain) -> float:
    return float(chain.sigmas[3])


@pytest.mark.parametrize("start", ["shuffle", "gaussian", "inverted"])
def test_the_start_is_the_picture_under_the_chains_noise(setup, monkeypatch, start):
    model, chain = setup["model"], setup["chain"]
    began = start_of(setup, monkeypatch, latent=setup["picture"], start=start)
    picture = model.model.process_latent_in(setup["picture"]["samples"])
    sigma = middle(chain)
    drawn = start_latents(noise_of(chain, sigma), (8, 8), [0], 3, start)
    assert graph.relative(began, picture + sigma * drawn) < 1e-5


def test_the_photo_as_the_picture_is_no_latent(setup):
    for start in ("shuffle", "inverted"):
        assert graph.relative(sample(setup, start=start, latent=setup["photo"]),
                              sample(setup, start=start)) < 1e-5


def test_less_denoise_stays_nearer_to_the_picture(setup):
    near, far = (graph.relative(sample(setup, latent=setup["picture"], denoise=denoise),
                                setup["picture"]["samples"]) for denoise in (0.17, 0.84))
    assert near < 0.5 < far


def test_another_size_draws_the_noise_with_replacement(setup, monkeypatch):
    import tiny

    wide = {"samples": tiny.latent(7, size=12)["samples"][:, :, :6]}
    began = start_of(setup, monkeypatch, latent=wide)
    sigma = middle(setup["chain"])
    drawn = draw_latents(noise_of(setup["chain"], sigma), (6, 12), [0], 3, resample)
    picture = setup["model"].model.process_latent_in(wide["samples"])
    assert graph.relative(began, picture + sigma * drawn) < 1e-5
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: start 'inverted' needs .*\.$"):
        sample(setup, latent=wide, start="inverted")


def test_every_picture_of_a_batch_has_its_own_draw(setup):
    import tiny

    one, two = (tiny.latent(seed, size=8)["samples"] for seed in (7, 8))
    batch = sample(setup, latent={"samples": torch.cat([one, two]), "batch_index": [4, 2]})
    alone = [sample(setup, latent={"samples": x, "batch_index": [j]})
             for x, j in ((one, 4), (two, 2))]
    assert graph.relative(batch, torch.cat(alone)) < 1e-5
    many = sample(setup, latent=setup["picture"], batch_size=2)
    assert graph.relative(many[:1], sample(setup, latent=setup["picture"])) < 1e-5
    assert graph.relative(many[1], many[0]) > 0.01


def test_a_flow_keeps_its_share_of_the_picture(setup, monkeypatch):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = ModelSamplingSD3().patch(setup["model"], 3.0)[0]
    chain, _ = graph.invert(flow, setup["photo"], setup["prompt"], steps=6)
    began = start_of({**setup, "model": flow, "chain": chain}, monkeypatch, latent=setup["picture"])
    sigma = middle(chain)
    drawn = start_latents(noise_of(chain, sigma), (8, 8), [0], 3, "shuffle")
    picture = flow.model.process_latent_in(setup["picture"]["samples"])
    assert graph.relative(began, (1 - sigma) * picture + sigma * drawn) < 1e-5


def test_an_empty_latent_is_no_picture(setup):
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    assert torch.equal(sample(setup, latent=empty), sample(setup))


@pytest.mark.parametrize("denoise", [1.0, 0.95])
def test_where_all_steps_are_walked_a_picture_is_unused_and_that_is_said(setup, caplog, denoise):
    used = sample(setup, latent=setup["picture"], denoise=denoise)
    assert "RIVAL KSampler: of the latent only the size is used" in caplog.text
    caplog.clear()
    assert torch.equal(used, sample(setup, denoise=denoise))
    sample(setup, denoise=denoise, latent={"samples": torch.zeros(1, 4, 8, 8)})
    sample(setup, latent=setup["picture"])
    assert "only the size" not in caplog.text


@pytest.mark.parametrize("samples, said", [
    (torch.ones(1, 16, 8, 8), "to start from has 16 channels"),
    (torch.full((1, 4, 8, 8), math.nan), "to start from is empty or holds NaN"),
    (torch.ones(1, 4, 1, 8, 8), "shape"),
])
def test_pictures_that_cannot_be_started_from(setup, samples, said):
    with pytest.raises(ValueError, match=rf"^RIVAL KSampler: the latent .*{said}.*\.$"):
        sample(setup, latent={"samples": samples})


def test_the_chains_noise_is_no_picture(setup):
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: .*noise of RIVAL Invert.*\.$"):
        sample(setup, latent=setup["noise"])


# RIVAL Noise, with a part of RIVAL Sigmas.


def core_sample(setup, latent, sigmas, given):
    import comfy.samplers
    from comfyui_rival.nodes import RivalNoise

    noise = RivalNoise.execute(setup["chain"], 3, "shuffle", given).args[0]
    guider = comfy.samplers.CFGGuider(setup["model"])
    guider.set_conds(setup["prompt"], setup["prompt"])
    guider.set_cfg(1.0)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise.generate_noise(latent), latent["samples"], sampler, sigmas)


@pytest.mark.parametrize("given", ["picture", "photo", None])
def test_core_sampling_of_a_part_equals_our_sampler(setup, caplog, given):
    chain = setup["chain"]
    low = chain.falling_sigmas()[3:]  # Split Sigmas
    latent = setup[given] if given else {"samples": torch.zeros(1, 4, 8, 8)}
    theirs = core_sample(setup, latent, low, given=low)
    ours = sample(setup, latent=latent) * chain.scaling.level(float(chain.sigmas[0]))
    assert graph.relative(theirs, ours) < 1e-5
    assert "RIVAL Noise" not in caplog.text


def test_a_picture_at_the_top_is_said(setup, caplog):
    caplog.set_level(logging.WARNING)
    sigmas = setup["chain"].falling_sigmas()
    with_it = core_sample(setup, setup["picture"], sigmas, given=None)
    assert torch.isfinite(with_it).all()
    assert "RIVAL Noise: the sampler adds the picture in latent_image" in caplog.text


def test_sigmas_of_another_chain(setup):
    with pytest.raises(ValueError, match=r"^RIVAL Noise: the sigmas begin at .*\.$"):
        core_sample(setup, setup["picture"], None, given=torch.tensor([40.0, 0.0]))
