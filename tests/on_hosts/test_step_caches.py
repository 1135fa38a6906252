"""Beside core's EasyCache and LazyCache, which skip model calls by watching the latent."""

from __future__ import annotations

import graph
import pytest
import spies
import torch

pytestmark = pytest.mark.host
TO_THE_END = {"normalize_end": 1.0}  # so that every step has the exemplar's estimate


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15", levels=1)
    prompts = [tiny.conditioning(model, seed) for seed in (1, 2)]
    chain, _ = graph.invert(model, tiny.latent(2, size=8), prompts[0], steps=12)
    return model, chain, prompts


def cached(model, node, threshold):
    from comfy_extras import nodes_easycache

    return getattr(nodes_easycache, node).execute(model, threshold, 0.1, 0.9, False).args[0]


@pytest.mark.parametrize("order", ["cache first", "patch first"])
@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_the_exemplar_is_neither_skipped_nor_watched(setup, monkeypatch, node, order):
    model, chain, prompts = setup

    def run(threshold):
        if order == "cache first":
            patched = graph.patch(cached(model, node, threshold), chain, **TO_THE_END)
        else:
            patched = cached(graph.patch(model, chain, **TO_THE_END), node, threshold)
        with spies.exemplar_calls(monkeypatch) as calls:
            samples = graph.rival_sample(patched, chain, *prompts)
        return samples, {sigma: denoised[0] for _, sigma, denoised in calls}

    plain = graph.rival_sample(graph.patch(model, chain, **TO_THE_END), chain, *prompts)
    never, every = run(0.0)
    assert graph.relative(never, plain) < 1e-5
    skipping, some = run(0.6)
    assert torch.isfinite(skipping).all() and not torch.equal(skipping, plain)
    assert all(torch.equal(some[sigma], every[sigma]) for sigma in some)


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
@pytest.mark.parametrize("solver", [pytest.param("ddim", marks=pytest.mark.any_host), "anderson"])
def test_the_inversion_and_its_way_back_are_neither_skipped_nor_watched(setup, node, solver):
    """Else a step would count as solved, and its features as seen, that the model never saw."""
    from comfyui_rival.nodes import RivalReconstruct

    model, _, prompts = setup
    inputs = {"steps": 12, "solver": solver, "features": "live" if solver == "ddim" else "cached"}
    with spies.model_rows(model) as calls:
        plain, _ = graph.invert(model, tiny_photo(), prompts[0], **inputs)
    with spies.model_rows(model) as again:
        chain, _ = graph.invert(cached(model, node, 0.6), tiny_photo(), prompts[0], **inputs)
    assert again == calls and torch.equal(chain.latents, plain.latents)
    assert chain.features.rows.keys() == plain.features.rows.keys()
    back = RivalReconstruct.execute(model, chain).args[0]["samples"]
    through = RivalReconstruct.execute(cached(model, node, 0.6), chain).args[0]["samples"]
    assert torch.equal(through, back)


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_looking_for_words_skips_no_call(setup, node):
    from comfyui_rival.nodes.guidance import attention_maps

    model, chain, _ = setup
    with spies.model_rows(model) as calls:
        plain = attention_maps(model, chain, [1])
    with spies.model_rows(model) as again:
        through = attention_maps(cached(model, node, 0.6), chain, [1])
    assert again == calls and len(plain) == len(through) > 0
    assert all(map(torch.equal, through, plain))


def tiny_photo() -> dict:
    import tiny

    return tiny.latent(2, size=8)


def test_a_skipped_exemplar_is_an_error_not_a_silence(setup):
    """A pack that skips transformer blocks leaves nothing to read there, and the node says so."""
    from comfyui_rival.nodes.host.unet import Lending
    from comfyui_rival.nodes.steering import run as alignment

    _, chain, _ = setup
    step = alignment.Step(1.0, alignment.steering([alignment.Exemplar(chain)], 500))
    step.tokens[id(chain), "positive"] = {}
    own = torch.zeros(1, 4, 8)
    layer = {"block": ("input", 1), "block_index": 0, "uuids": ["a generated row"]}
    with pytest.raises(ValueError, match=r"^RIVAL Patch Model: .*\('input', 1\).*skips"):
        Lending(alignment.Reader(step, {}), set())(own, own, own, layer)
