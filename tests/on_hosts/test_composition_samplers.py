"""Any sampler and guider of ComfyUI on the patched MODEL, and the chain where they ask for it."""

from __future__ import annotations

import math

import graph
import pytest
import torch
from composing import (
    assert_close,
    assert_differ,
    chain_of,
    latent,
    model_of,
    prompt,
    prompts,
    run_node,
    spied,
)

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CFG, STEPS = 4.0, 5
NOISELESS = ["euler", "heun", "dpmpp_2m", "dpm_2"]
STOCHASTIC = ["dpmpp_sde", "lcm", "euler_ancestral"]


def plain():
    """The upper half of the UNet: each test compares samplers of one model with each other."""
    return model_of("sd15", levels=1)


def photo_chain():
    return chain_of(levels=1)


def patched(chain, **widgets):
    return graph.patch(plain(), chain, **widgets)


def k_sample(model, sampler="euler", seed=1, cfg=CFG, scheduler="normal", batch=1, denoise=1.0):
    """The samples of ComfyUI's KSampler."""
    from nodes import KSampler

    empty = {"samples": torch.zeros(batch, 4, 8, 8) if denoise == 1.0 else latent(9)}
    conds = prompts()
    inputs = (seed, STEPS, cfg, sampler, scheduler, conds["positive"], conds["negative"], empty)
    return run_node(KSampler, model, *inputs, denoise)[0]["samples"]


def k_sample_advanced(model, image, sampler="euler", add_noise="disable", **inputs):
    """The LATENT of ComfyUI's KSampler (Advanced)."""
    from nodes import KSamplerAdvanced

    widgets = {
        "add_noise": add_noise,
        "noise_seed": 1,
        "steps": STEPS,
        "cfg": CFG,
        "sampler_name": sampler,
        "scheduler": "normal",
        "start_at_step": 0,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
        **prompts(),
        **inputs,
    }
    return run_node(KSamplerAdvanced, model, latent_image=image, **widgets)[0]


def custom_sample(model, chain, sampler, cfg=CFG, seed=1, start="shuffle", batch=1, end=None):
    """The samples of SamplerCustomAdvanced with RIVAL Noise, RIVAL Sigmas and core's guiders."""
    import comfy_extras.nodes_custom_sampler as core
    from comfyui_rival.nodes import RivalNoise, RivalSigmas

    end_at_zero = sampler in STOCHASTIC if end is None else end
    conds = prompts()
    if cfg == 1.0:
        guider = run_node(core.BasicGuider, model, conds["positive"])[0]
    else:
        guider = run_node(core.CFGGuider, model, **conds, cfg=cfg)[0]
    noise = RivalNoise.execute(chain, seed, start).args[0]
    sigmas = RivalSigmas.execute(chain, end_at_zero).args[0]
    select = run_node(core.KSamplerSelect, sampler)[0]
    empty = {"samples": torch.zeros(batch, *chain.latents.shape[1:])}
    return run_node(core.SamplerCustomAdvanced, noise, guider, select, sigmas, empty)[0]["samples"]


# --- RIVAL KSampler and its parts ----------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, start, cfg",
    [
        *((sampler, "shuffle", CFG) for sampler in (*NOISELESS, *STOCHASTIC)),
        *(("euler", start, CFG) for start in ("gaussian", "inverted")),
        *((sampler, "shuffle", 1.0) for sampler in ("euler", "dpmpp_sde")),
    ],
)
def test_core_sampler_equals_ours(sampler, start, cfg):
    """Where noise is left at the end, core's result is ours times sqrt(1 + sigma_0^2)."""
    chain = photo_chain()
    model, asked = patched(chain), {"cfg": cfg, "start": start, "seed": 1}
    ours = graph.rival_sample(
        model, chain, **prompts(), **asked, sampler_name=sampler, batch_size=2
    )
    theirs = custom_sample(model, chain, sampler, **asked, batch=2)
    left = 0.0 if sampler in STOCHASTIC else float(chain.sigmas[0])
    assert_close(theirs, ours * math.sqrt(1 + left**2))
    assert left == 0.0 or left > 0.02


@pytest.mark.parametrize("sampler", ["euler", *STOCHASTIC])
def test_the_same_seed_gives_the_same_latent(sampler):
    chain = photo_chain()
    asked = {**prompts(), "sampler_name": sampler, "batch_size": 2}
    first, again, other = (
        graph.rival_sample(patched(chain), chain, **asked, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert_differ(first, other, 0.05)


# --- core's samplers on the patched model --------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, scheduler",
    [
        *((name, "normal") for name in ("euler", "heun", "dpmpp_2m", "dpmpp_sde", "lcm")),
        *((name, "karras") for name in ("dpmpp_2m", "uni_pc")),
    ],
)
def test_k_sampler(sampler, scheduler):
    model = patched(photo_chain())
    first, again = (k_sample(model, sampler, scheduler=scheduler) for _ in range(2))
    assert torch.equal(first, again)
    assert_differ(k_sample(plain(), sampler, scheduler=scheduler), first, 0.05)


def test_k_sampler_leaves_the_model_as_it_was():
    before = k_sample(plain())
    k_sample(patched(photo_chain()))
    assert torch.equal(k_sample(plain()), before)
    assert torch.equal(k_sample(patched(photo_chain(), strength=0.0)), before)


def test_image_to_image():
    """From the middle of the schedule on; the chain is found at whatever sigmas are asked."""
    model = patched(photo_chain())
    ours = k_sample(model, denoise=0.6)
    assert torch.equal(k_sample(model, denoise=0.6), ours)
    assert_differ(k_sample(plain(), denoise=0.6), ours, 0.01)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_noise_output_starts_a_core_sampler(sampler):
    """On the chain's own sigmas KSampler (Advanced) with no noise added is RIVAL KSampler."""
    image = {"samples": latent(100)}
    chain, noise = graph.invert(
        plain(), image, prompt("sd15", 1), steps=STEPS, schedule="normal"
    )
    asked = {"seed": 1, "cfg": CFG, "start": "inverted", "sampler_name": sampler}
    ours = graph.rival_sample(patched(chain), chain, **prompts(), **asked)
    assert_close(k_sample_advanced(patched(chain), noise, sampler)["samples"], ours)
    assert_differ(k_sample_advanced(plain(), noise, sampler)["samples"], ours, 0.05)


def test_a_run_in_two_stages():
    """A patched model keeps nothing from one run to the next."""
    chain = photo_chain()
    model, empty = patched(chain), {"samples": torch.zeros(1, 4, 8, 8)}
    whole = k_sample_advanced(model, empty, add_noise="enable")
    stop = {"end_at_step": 2, "return_with_leftover_noise": "enable"}
    half = k_sample_advanced(model, empty, add_noise="enable", **stop)
    rest = k_sample_advanced(model, half, start_at_step=2)
    assert_close(rest["samples"], whole["samples"])


# --- the exemplar at every sigma -----------------------------------------------------------------


def on_the_chain(chain, sigma: float) -> torch.Tensor:
    """The exemplar at any sigma, in double precision: linear between the chain's own."""
    sigmas, latents = chain.sigmas.double(), chain.latents.double()
    if sigma > sigmas[-1]:
        return latents[-1:] * ((1 + sigma**2) / (1 + sigmas[-1] ** 2)).sqrt()
    above = int((sigmas < sigma).sum())
    if above == 0:
        return latents[:1]
    low, high = sigmas[above - 1], sigmas[above]
    share = (sigma - low) / (high - low)
    return (1 - share) * latents[above - 1][None] + share * latents[above][None]


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde", "uni_pc"])
@pytest.mark.parametrize("route", ["KSampler", "RIVAL KSampler"])
def test_the_chain_is_found_at_every_sigma(route, sampler, monkeypatch):
    """Between its own sigmas, above the noisiest and below the last one, once for each sigma."""
    chain = photo_chain()
    calls = spied(monkeypatch)
    if route == "KSampler":
        k_sample(patched(chain), sampler, scheduler="karras")
    else:
        graph.rival_sample(patched(chain), chain, **prompts(), seed=1, sampler_name=sampler)
    asked = [call.sigma for call in calls]
    assert len(asked) >= STEPS - 1  # a last step at the model's least sigma reads nothing
    for call in calls:
        assert_close(call.x, on_the_chain(chain, call.sigma).float(), 1e-6)
    between = [sigma for sigma in asked if chain.sigmas[0] < sigma < chain.top]
    own = set(chain.sigmas.tolist())
    if route == "KSampler" or sampler in ("dpm_2", "dpmpp_sde"):
        assert set(between) - own, "no sigma between the chain's was asked for"
    if route == "KSampler":
        assert max(asked) > chain.top
    for i in range(1, len(asked)):
        assert asked[i] != asked[i - 1], "the exemplar ran twice in a row at one sigma"


@pytest.mark.parametrize("sampler", NOISELESS)
def test_exemplar_on_its_own_sigmas_is_bitwise_the_chain(sampler, monkeypatch):
    chain = photo_chain()
    calls = spied(monkeypatch)
    graph.rival_sample(patched(chain), chain, **prompts(), seed=1, sampler_name=sampler)
    levels = chain.sigmas.tolist()
    on_grid = [call for call in calls if call.sigma in levels]
    assert {call.sigma for call in on_grid} >= set(levels[1:])
    for call in on_grid:
        assert torch.equal(call.x, chain.latents[levels.index(call.sigma)][None])
