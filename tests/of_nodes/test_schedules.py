"""Chains along ComfyUI's own schedulers and along any SIGMAS, as few-step models need them."""

from __future__ import annotations

import graph
import pytest
import torch

pytestmark = [pytest.mark.host, pytest.mark.sampled]


@pytest.fixture(scope="module", params=[
    "sd15", *(pytest.param(other, marks=pytest.mark.any_host) for other in ("sd15_lcm", "sdxl_edm"))
])
def setup(request):
    import tiny

    model = tiny.build(request.param, levels=1)
    prompts = [tiny.conditioning(model, seed) for seed in (1, 2)]
    return model, prompts, tiny.latent(2, size=8)


def schedulers():
    from comfyui_rival.nodes import host

    return host.SCHEDULERS


def test_every_scheduler_makes_a_chain_that_samples(setup):
    """A scheduler that repeats a sigma is refused in one sentence; all others run to the end."""
    model, prompts, photo = setup
    made = []
    for schedule in schedulers():
        try:
            chain, _ = graph.invert(model, photo, prompts[0], steps=6, schedule=schedule)
        except ValueError as error:
            assert str(error).startswith("RIVAL Invert: ") and "\n" not in str(error)
            continue
        samples = graph.rival_sample(graph.patch(model, chain), chain, *prompts)
        assert torch.isfinite(samples).all(), schedule
        made.append(schedule)
    assert {"simple", "sgm_uniform", "karras", "normal", "ddim_uniform"} <= set(made)


@pytest.mark.parametrize("schedule", ["rival", "sgm_uniform", "karras"])
def test_the_core_sampler_starts_where_ours_does(setup, schedule):
    """Below the model's top sigma, and at it, where the host scales noise otherwise."""
    model, prompts, photo = setup
    chain, _ = graph.invert(model, photo, prompts[0], steps=6, schedule=schedule)
    patched = graph.patch(model, chain)
    ours = graph.rival_sample(patched, chain, *prompts, seed=3)
    theirs = graph.core_sample(patched, chain, *prompts, seed=3)
    latent_format = model.get_model_object("latent_format")
    in_model_space = latent_format.process_in(theirs) / chain.scaling.level(float(chain.sigmas[0]))
    assert graph.relative(latent_format.process_in(ours), in_model_space) < 1e-5


def test_a_chain_along_given_sigmas(setup):
    model, prompts, photo = setup
    sigmas = torch.tensor([8.0, 3.0, 1.0, 0.3, 0.0])
    chain, _ = graph.invert(model, photo, prompts[0], sigmas=sigmas, steps=1, schedule="rival")
    assert torch.equal(chain.falling_sigmas(), sigmas)
    latent_format = model.get_model_object("latent_format")
    assert torch.equal(chain.latents[:1], latent_format.process_in(photo["samples"]))
    assert torch.isfinite(graph.rival_sample(graph.patch(model, chain), chain, *prompts)).all()


def test_four_steps_as_turbo_and_lightning_take_them(setup):
    model, prompts, photo = setup
    chain, _ = graph.invert(model, photo, prompts[0], steps=4, schedule="sgm_uniform")
    patched = graph.patch(model, chain)
    samples = graph.rival_sample(patched, chain, *prompts, cfg=1.0, sampler_name="lcm")
    assert torch.isfinite(samples).all()
    assert not torch.equal(samples, graph.rival_sample(model, chain, *prompts, cfg=1.0))


def test_guided_inversion_uses_the_negative_and_costs_twice(setup):
    import spies

    model, (prompt, negative), photo = setup
    plain, _ = graph.invert(model, photo, prompt, steps=5)
    with spies.model_rows(model) as calls:
        guided, _ = graph.invert(model, photo, prompt, negative=negative, steps=5, cfg=3.0)
    assert [rows for rows, _ in calls] == [2] * 5 and guided.evaluations == 10
    assert graph.relative(guided.end, plain.end) > 1e-2
