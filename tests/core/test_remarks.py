"""What a run says of noise that the photo's statistics do not fit."""

from __future__ import annotations

import dataclasses

import graph
import pytest
import torch

pytestmark = pytest.mark.host

SAID = "times the spread of the photo's own"


@pytest.fixture(scope="module")
def setup():
    """A chain whose noise is half as wide as that of plain sampling."""
    import tiny

    model = tiny.build("sd15")
    prompt = tiny.conditioning(model, 1)
    chain, _ = graph.invert(model, tiny.latent(2, size=16), prompt, steps=5)
    return model, dataclasses.replace(chain, latents=halved(chain)), prompt


def halved(chain):
    """Its latents with a standard deviation of half of sigma, at the noisy end."""
    noise = torch.randn(chain.latents.shape, generator=torch.Generator().manual_seed(0))
    return 0.5 * chain.sigmas.view(-1, 1, 1, 1) * noise


def ratios(caplog) -> list[float]:
    """Of each time that it was said."""
    said = [r.getMessage() for r in caplog.records if SAID in r.getMessage()]
    return [float(message.split(" times")[0].split()[-1]) for message in said]


def plain_noise(model, chain, prompt):
    """Core's sampling from noise of its own."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt, prompt)
    guider.set_cfg(1.0)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, chain.falling_sigmas())


def test_plain_noise_is_told_once_a_run(setup, caplog):
    model, chain, prompt = setup
    patched = graph.patch(model, chain)
    for runs in (1, 2):
        plain_noise(patched, chain, prompt)
        assert ratios(caplog) == pytest.approx([2.0] * runs, abs=0.15)


@pytest.mark.parametrize("start", ["shuffle", "gaussian", "inverted"])
def test_our_own_starts_fit(setup, start, caplog):
    model, chain, prompt = setup
    graph.rival_sample(graph.patch(model, chain), chain, prompt, prompt, start=start, batch_size=2)
    assert ratios(caplog) == []


def test_without_normalisation_any_noise_fits(setup, caplog):
    model, chain, prompt = setup
    plain_noise(graph.patch(model, chain, normalize_end=0.0), chain, prompt)
    assert ratios(caplog) == []


def test_a_photo_in_a_part_of_the_image_is_not_judged(setup, caplog):
    model, chain, prompt = setup
    plain_noise(graph.patch(model, chain, mask=torch.ones(1, 16, 16)), chain, prompt)
    assert ratios(caplog) == []
