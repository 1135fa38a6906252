"""Models made for few steps: LCM, Turbo and Lightning, as their makers sample them."""

from __future__ import annotations

import graph
import official
import pytest
import spies
import tiny
import torch
from composing import assert_differ, remembered, run_node

pytestmark = pytest.mark.any_host
KINDS = {  # family, sampler
    "lcm": ("sd15_lcm", "lcm"),
    "turbo": ("sd15", "euler_ancestral"),
    "lightning": ("sdxl", "euler"),
}


@remembered
def model_of(kind: str):
    """A tiny model whose step from noise to image has an inverse, as a random network's has not.

    It predicts nine tenths of the noise: a single step leaves an image a tenth as large.
    """
    model = tiny.calm(tiny.build(KINDS[kind][0], levels=1), share=0.01)
    with torch.no_grad():
        model.model.diffusion_model.out[2].weight.mul_(0.9)
    return model


@remembered
def chain_of(kind: str, steps: int):
    model = model_of(kind)
    widgets = {"steps": steps, "schedule": "sgm_uniform", "tolerance": 1e-5, "iterations": 20}
    if kind == "turbo":
        from comfy_extras.nodes_custom_sampler import SDTurboScheduler

        sigmas = run_node(SDTurboScheduler, model=model, steps=steps, denoise=1.0)[0]
        widgets |= {"sigmas": sigmas}
    return graph.invert(model, photo(), prompts(kind)[0], solver="anderson", **widgets)[0]


def photo() -> dict:
    """As large as what these models make of noise."""
    return {"samples": 6 * tiny.latent(4, size=8)["samples"]}


def prompts(kind: str) -> list:
    """The photo's, and two more."""
    return [tiny.conditioning(model_of(kind), seed) for seed in (1, 2, 3)]


def sample(kind, steps, model=None, **inputs):
    chain, (_, negative, prompt) = chain_of(kind, steps), prompts(kind)
    patched = graph.patch(model_of(kind), chain) if model is None else model
    asked = {"positive": prompt, "negative": negative, "cfg": 1.0, "sampler_name": KINDS[kind][1]}
    return graph.rival_sample(patched, chain, **{**asked, **inputs})


@pytest.mark.parametrize("kind, steps, sampler", [
    ("lightning", 4, "euler"),
    ("lightning", 1, "euler"),
    ("turbo", 4, "euler"),
    ("turbo", 2, "euler"),
    ("turbo", 1, "euler_ancestral"),
    ("lcm", 4, "euler"),
    ("lcm", 1, "lcm"),
])  # fmt: skip
def test_the_photo_comes_back(kind, steps, sampler):
    """Samplers that draw noise draw none in the last step, here the only one."""
    own = prompts(kind)[0]
    for model in (None, model_of(kind)):
        back = sample(
            kind, steps, model, start="inverted", positive=own, negative=own, sampler_name=sampler
        )
        assert graph.relative(back, photo()["samples"]) < (1e-2 if steps == 1 else 1e-3)


@pytest.mark.host
@pytest.mark.parametrize("kind, steps", [("lightning", 4), ("turbo", 4), ("turbo", 10),
                                         ("lcm", 4), ("lcm", 8)])  # fmt: skip
def test_gates_open_at_the_real_timesteps(kind, steps, monkeypatch):
    """By the official comparisons, at t looked up in the full table of noise levels."""
    from comfyui_rival.nodes.steering import run as alignment

    table, seen = official.alphas_cumprod(), []
    table = ((1 - table) / table).sqrt()
    original = alignment.Run.inject

    def watched(self, model, conds, x, sigma, options):
        out = original(self, model, conds, x, sigma, options)
        rules = [rule.value for rule in self.step.steering.rules] or ["plain"]
        t = int((table - float(sigma[0])).abs().argmin())
        seen.append((t, *rules, bool(self.step.steering.normalizers)))
        return out

    monkeypatch.setattr(alignment.Run, "inject", watched)
    sample(kind, steps)
    levels = [int((table - s).abs().argmin()) for s in chain_of(kind, steps).sigmas.flip(0)[:-1]]
    assert [t for t, *_ in seen] == levels and levels[0] == 999
    assert seen == [(t, official.attention_mode(t), official.adain_active(t)) for t in levels]
    assert {"replace", "concat"} == {rule for _, rule, _ in seen} or (kind, steps) == ("turbo", 4)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("kind, steps", [("lightning", 4), ("turbo", 1), ("turbo", 4),
                                         ("lcm", 4), ("lcm", 8)])  # fmt: skip
def test_variations(kind, steps, cfg):
    """The same seed gives the same latent, another seed another; the photo has its effect."""
    one, again, other = (sample(kind, steps, seed=seed, cfg=cfg) for seed in (1, 1, 2))
    assert torch.isfinite(one).all() and torch.equal(one, again)
    assert_differ(other, one, 0.1)
    assert_differ(sample(kind, steps, model_of(kind), seed=1, cfg=cfg), one, 1e-3)


@pytest.mark.host
@pytest.mark.parametrize("kind", ["turbo", "lightning"])
def test_a_chain_of_one_step(kind):
    """One model call for the photo and the image, with core's sampler, too."""
    chain = chain_of(kind, 1)
    patched, (_, negative, prompt) = graph.patch(model_of(kind), chain), prompts(kind)
    with spies.model_rows(model_of(kind)) as calls:
        ours = sample(kind, 1, batch_size=2, seed=3)
    assert [rows for rows, _ in calls] == [1 + 2] and len(ours) == 2
    theirs = graph.core_sample(patched, chain, prompt, negative, seed=3, cfg=1.0)
    assert graph.relative(theirs, ours[:1]) < 1e-5
    assert graph.relative(sample(kind, 1, seed=3, denoise=0.1), ours[:1]) < 1e-5


def test_a_step_that_cannot_be_inverted_is_said_so(caplog):
    """A random network's single step is no bijection: the residual tells, and nothing breaks."""
    model = tiny.build("sd15", levels=1)
    chain, _ = graph.invert(
        model, tiny.latent(4, size=8), tiny.conditioning(model, 1), solver="anderson", steps=1,
        schedule="sgm_uniform",
    )  # fmt: skip
    assert chain.unsolved == [0] and torch.isfinite(chain.latents).all()
    assert any(m.startswith("RIVAL Invert:") and "1 step" in m for m in caplog.messages)
