"""Other weights beside the patch: LoRA, and LoRA scheduled by hooks."""

from __future__ import annotations

import graph
import pytest
import tiny
import torch
from composing import assert_close, assert_differ, chain_of, latent, model_of, prompts, watched
from loras import (
    STRENGTHS,
    changed_for_good,
    hook_lora,
    hooked,
    state,
    strength_at,
    with_lora,
)
from row_checks import assert_rows, names_of, texts

pytestmark = [pytest.mark.host, pytest.mark.sampled]


def test_lora_equals_changed_weights():
    """Photo and variation both have the LoRA, wherever the patch stands."""
    changed, chains, results = changed_for_good(0.8), [], []
    base = tiny.build("sd15")  # loading a LoRA changes weights in place: not the shared model

    def sample(model, patched):
        image = {"samples": latent(1)}
        chain = graph.invert(model, image, texts()["photo +"], steps=5)[0]
        chains.append(chain)
        results.append(graph.rival_sample(patched(chain), chain, **prompts(), seed=1))

    sample(changed, lambda chain: graph.patch(changed, chain))
    sample(with_lora(base), lambda chain: graph.patch(with_lora(base), chain))
    sample(with_lora(base), lambda chain: with_lora(graph.patch(base, chain)))
    for chain, result in zip(chains[1:], results[1:]):
        assert_close(chain.latents, chains[0].latents)
        assert_close(result, results[0])
    plain = graph.patch(base, chains[0])
    assert_differ(graph.rival_sample(plain, chains[0], **prompts(), seed=1), results[0], 0.01)


@pytest.mark.parametrize(("which", "negative"), [
    pytest.param(("positive",), False, marks=pytest.mark.any_host),
    pytest.param(("negative",), True, marks=pytest.mark.any_host),
    (("positive", "negative"), True),
])
def test_hook_lora(which, negative):
    """At every step the photo runs without the hooks' weights, hooked prompts with them."""
    model, chain = tiny.build("sd15"), chain_of(negative=negative)
    before = state(model)
    patched = graph.patch(model, chain)
    hooks = hook_lora(STRENGTHS)
    conds = {name: hooked(c, hooks) if name in which else c for name, c in prompts().items()}

    def sample():
        return graph.rival_sample(patched, chain, **conds, seed=1)

    def model_for(name, place):
        base = model_of("sd15")
        return changed_for_good(strength_at(place, chain)) if name in which else base

    with watched(model) as rows:
        first = sample()
    after = state(model)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    with watched(model) as again:
        assert torch.equal(sample(), first)
    assert len(again) == len(rows)
    assert {"positive", "negative"} == {s[0] for s in assert_rows(model, rows, chain, model_for)}
    assert names_of(rows).count("photo +") == chain.steps
