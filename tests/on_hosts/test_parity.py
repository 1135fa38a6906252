"""The pack inside ComfyUI against an independent derivation of the official algorithm."""

from __future__ import annotations

import math
from collections.abc import Set
from functools import cache, partial

import graph
import official
import pytest
import torch
from composing import remembered
from controls import Applied, control_net, controlled, hint, network_residuals
from loras import changed_for_good, with_lora
from paper_settings import SEED, SETTINGS, official_start

pytestmark = pytest.mark.host
TOLERANCE = 1e-4
SD = 0.18215  # the latent format's scale: the official code's z0 = 0.18215 * VAE mean
CONCEPT = 0.5  # the strength of its LoRA

SQUARE, WIDE, TALL = (8, 8), (8, 12), (12, 6)


@pytest.fixture(scope="module")
def sd15():
    import tiny

    return tiny.build("sd15")


@pytest.fixture(scope="module")
def upper_half():
    """Of the same network: half the work, where steps are what counts."""
    import tiny

    return tiny.build("sd15", levels=1)


@pytest.fixture(scope="module")
def sd2_v():
    import tiny

    return tiny.build("sd2_v")


@remembered
def concept():
    """The tiny model with a concept in a LoRA, as LoraLoader gives it."""
    import tiny

    return with_lora(tiny.build("sd15"), CONCEPT)


def prompts(model):
    import tiny

    return [tiny.conditioning(model, seed) for seed in (1, 2, 3)]  # empty, negative, caption


def photo(size):
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, 4, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return smooth + 0.2 * torch.randn(1, 4, *size, generator=generator)


@cache
def official_chain(model, lora, with_prompt, steps, size, prediction, mistakes: Set):
    """In VP coordinates. Settings that differ later on share it."""
    unet = (changed_for_good(CONCEPT) if lora else model).model.diffusion_model
    empty, _, caption = (c[0][0] for c in prompts(model))
    asked = caption if with_prompt else empty
    common = {"prediction": prediction, "mistakes": mistakes}
    return official.invert(unet, SD * photo(size), asked, steps, **common)


@cache
def run_official(model, setting, steps, size, prediction="eps", mistakes: Set = frozenset()):
    """(chain in VP coordinates, final z)."""
    unet = (changed_for_good(CONCEPT) if setting.lora else model).model.diffusion_model
    empty, negative, caption = (c[0][0] for c in prompts(model))
    inverted_with = setting.inverted_with_prompt
    chain = official_chain(model, setting.lora, inverted_with, steps, size, prediction, mistakes)
    control = partial(network_residuals, control_net(), image=hint(*size))
    final = official.sample(
        unet,
        chain,
        official_start(chain[-1], setting.start),
        *(empty, negative, caption if inverted_with else empty, caption),
        steps,
        setting.cfg,
        t_align=setting.align,
        t_early=setting.t_early,
        editing_early_steps=setting.early,
        control_net=control if setting.control else None,
        prediction=prediction,
        mistakes=mistakes,
    )
    return chain, final


@cache
def pack_chain(model, lora, with_prompt, steps, size):
    """Settings that differ later on share it."""
    empty, _, caption = prompts(model)
    asked = {"positive": caption, "negative": empty} if with_prompt else {"positive": empty}
    model = concept() if lora else model
    return graph.invert(model, {"samples": photo(size)}, steps=steps, **asked)[0]


@cache
def run_pack(model, setting, steps, size, sample=graph.rival_sample):
    """(chain, final z)."""
    _, negative, caption = prompts(model)
    chain = pack_chain(model, setting.lora, setting.inverted_with_prompt, steps, size)
    patched = graph.patch(concept() if setting.lora else model, chain, **setting.gates())
    conds = {"positive": caption, "negative": negative}
    if setting.control:
        conds = controlled(conds, Applied(control_net, hint(*size)))
    samples = sample(patched, chain, **conds, seed=SEED, cfg=setting.cfg, start=setting.start)
    return chain, SD * samples


def assert_parity(model, setting, steps, size, prediction="eps"):
    theirs, their_final = run_official(model, setting, steps, size, prediction)
    ours, our_final = run_pack(model, setting, steps, size)
    for sigma, x, z in zip(ours.sigmas.tolist(), ours.latents, theirs):
        assert graph.relative(x[None] / math.sqrt(1 + sigma**2), z) < TOLERANCE
    error = graph.relative(our_final, their_final)
    print(f"relative error {error:.1e}")
    assert error < TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(sd15, name):
    assert_parity(sd15, SETTINGS[name], 10, WIDE)


@pytest.mark.any_host
@pytest.mark.parametrize("name", ["prompt_inverted", "controlnet"])
def test_a_tall_photo(sd15, name):
    assert_parity(sd15, SETTINGS[name], 10, TALL)


@pytest.mark.parametrize("name, steps", [
    ("prompt_inverted", 20),
    pytest.param("other_gates", 20, marks=pytest.mark.any_host),
    pytest.param("variation", 50, marks=pytest.mark.any_host),
    pytest.param("other_gates", 50, marks=pytest.mark.any_host),
])
def test_steps(upper_half, name, steps):
    """All hosts have the same Euler and the same table of noise levels, at 20 steps and at 50."""
    assert_parity(upper_half, SETTINGS[name], steps, SQUARE)


@pytest.mark.any_host
@pytest.mark.parametrize("name", ["prompt_inverted", "editing"])
def test_steps_that_do_not_divide_1000(upper_half, name):
    """The gates then follow the real timestep."""
    assert_parity(upper_half, SETTINGS[name], 30, SQUARE)


@pytest.mark.parametrize("name", ["variation", "prompt_inverted"])
def test_v_prediction(sd2_v, name):
    assert_parity(sd2_v, SETTINGS[name], 10, SQUARE, "v")


@pytest.mark.parametrize("name", ["variation", "editing", "dreambooth", "controlnet"])
def test_core_sampler_on_the_patched_model(sd15, name):
    """SamplerCustomAdvanced walks to the same latent, still at the terminal noise level."""
    _, theirs = run_official(sd15, SETTINGS[name], 10, WIDE)
    chain, ours = run_pack(sd15, SETTINGS[name], 10, WIDE, graph.core_sample)
    assert graph.relative(ours / math.sqrt(1 + float(chain.sigmas[0]) ** 2), theirs) < TOLERANCE


@pytest.mark.any_host
@pytest.mark.parametrize("mistake", sorted(official.MISTAKES | official.CONTROL_MISTAKES))
def test_every_deliberate_mistake_would_be_noticed(sd15, upper_half, mistake):
    """The right algorithm is a hundred tolerances away from each wrong one."""
    name = "controlnet" if mistake in official.CONTROL_MISTAKES else "prompt_inverted"
    model = sd15 if name == "controlnet" else upper_half
    _, wrong = run_official(model, SETTINGS[name], 10, SQUARE, mistakes=frozenset({mistake}))
    _, ours = run_pack(model, SETTINGS[name], 10, SQUARE)
    assert graph.relative(ours, wrong) > 100 * TOLERANCE
