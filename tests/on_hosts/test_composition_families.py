"""Every family of UNet: one prediction against appended rows, and whole variations."""

from __future__ import annotations

import graph
import pytest
import reference_rows
import tiny
import torch
from composing import (
    BOTH,
    CONCAT,
    REPLACE,
    assert_close,
    assert_differ,
    chain_of,
    guider_of,
    model_of,
    noised,
    photo,
    predict,
    prompts,
)

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CFG = 4.0
RULES = {REPLACE: (True, True), BOTH: (False, True), CONCAT: (False, False)}


def predictions(family, place, negative=False, batch=1, cfg=CFG):
    """(the pack's, the appended rows') at one place of the chain."""
    model, chain = model_of(family), chain_of(family, negative=negative)
    x, sigma = noised(chain, place, batch=batch), float(chain.sigmas[place])
    asked = prompts(family) if cfg != 1.0 else {"positive": prompts(family)["positive"]}
    ours = predict(guider_of(graph.patch(model, chain), **prompts(family), cfg=cfg), x, sigma)
    photos = [photo(chain, place)]
    return ours, reference_rows.predict(model, x, sigma, asked, cfg, photos, *RULES[place])


@pytest.mark.parametrize("negative", [pytest.param(False, marks=pytest.mark.any_host), True])
@pytest.mark.parametrize("place", RULES)
@pytest.mark.parametrize("family", tiny.UNET_FAMILIES)
def test_prediction_equals_appended_rows(family, place, negative):
    """With a negative both roles' rows of a family are asked for; without, one stands for both."""
    assert_close(*predictions(family, place, negative))


@pytest.mark.parametrize("family", tiny.UNET_FAMILIES)
def test_variation(family):
    """Inversion and variation are finite; strength 0 is the plain model, bit for bit."""
    model, chain = model_of(family), chain_of(family)

    def sample(model):
        return graph.rival_sample(model, chain, **prompts(family), seed=1)

    plain, variation = sample(model), sample(graph.patch(model, chain))
    assert chain.latents.isfinite().all()
    assert_differ(variation, plain, 0.05)
    assert torch.equal(sample(graph.patch(model, chain, strength=0.0)), plain)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_batch_and_guidance(batch, cfg):
    """cfg 1 runs no unconditional row."""
    assert_close(*predictions("sd15", REPLACE, negative=True, batch=batch, cfg=cfg))
