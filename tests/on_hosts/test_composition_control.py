"""ControlNet and T2I-Adapter beside the patch: they act on generated rows only."""

from __future__ import annotations

from functools import partial

import graph
import pytest
import torch
from composing import (
    CONCAT,
    REPLACE,
    assert_differ,
    chain_of,
    guider_of,
    model_of,
    noised,
    predict,
    prompts,
    spied,
    watched,
)
from controls import Applied, control_net, controlled, hint, residuals, t2i_adapter
from row_checks import assert_rows, texts

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CFG = 4.0
PLACES = [REPLACE, CONCAT]


FIRST = Applied(control_net, hint(), 0.6)
SECOND = Applied(partial(control_net, seed=7), hint(seed=22), 0.9)
ADAPTER = Applied(t2i_adapter, hint(seed=23), 0.8)
SEVERAL = {
    "two": [FIRST, SECOND],
    "the same twice": [FIRST, FIRST],
    "adapter": [ADAPTER],
    "adapter after ControlNet": [FIRST, ADAPTER],
    "early": [FIRST._replace(end=0.5)],
    "late": [FIRST._replace(start=0.5)],
    "one early, one late": [FIRST._replace(end=0.3), SECOND._replace(start=0.3)],
}


def assert_controlled_rows(seen, chain, applied) -> set:
    """Generated rows have the residuals of whatever acts at their sigma, the photo's none."""

    def arguments(name, row):
        return {"control": residuals(row, texts()[name][0][0], *applied)}

    return assert_rows(model_of("sd15"), seen, chain, arguments=arguments)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_rows_of_one_step(place, negative):
    """The sizes of photo and target need not agree."""
    chain, size = chain_of(negative=negative, height=10, width=6), (8, 12)
    model = graph.patch(model_of("sd15"), chain)
    applied = [FIRST._replace(image=hint(*size))]
    guider = guider_of(model, **controlled(prompts(), *applied), cfg=CFG)
    with watched(model) as seen:
        predict(guider, noised(chain, place, size=size), float(chain.sigmas[place]))
    shapes = assert_controlled_rows(seen, chain, applied)
    assert shapes == {("positive", *size), ("negative", *size)}
    assert len(seen) == 3 + negative


@pytest.mark.parametrize("name", [
    "two", "adapter", "one early, one late",
    *(pytest.param(name, marks=pytest.mark.any_host)
      for name in ("the same twice", "adapter after ControlNet", "early", "late")),
])
def test_rows_of_a_variation(name):
    """Several at once, and windows of the schedule, at every step of a run; each one counts."""
    chain, applied = chain_of(), SEVERAL[name]
    patched = graph.patch(model_of("sd15"), chain)
    with watched(patched) as seen:
        sampled = graph.rival_sample(patched, chain, **controlled(prompts(), *applied), seed=1)
    assert len(seen) == 3 * chain.steps
    assert_controlled_rows(seen, chain, applied)
    for i in range(len(applied)):
        conds = controlled(prompts(), *applied[:i], *applied[i + 1 :])
        assert_differ(graph.rival_sample(patched, chain, **conds, seed=1), sampled, 1e-2)


@pytest.mark.usefixtures("photos_apart")
def test_windows_open_and_close():
    """At t = 801 and 601 only the early one acts, later only the late one."""
    chain = chain_of()
    model = graph.patch(model_of("sd15"), chain)
    for window, open_at in [({"end": 0.5}, REPLACE), ({"start": 0.5}, CONCAT)]:
        conds = controlled(prompts(), FIRST._replace(**window))
        for place in PLACES:
            x, sigma = noised(chain, place), float(chain.sigmas[place])
            plain = predict(guider_of(model, **prompts(), cfg=CFG), x, sigma)
            ours = predict(guider_of(model, **conds, cfg=CFG), x, sigma)
            assert torch.equal(ours, plain) == (place != open_at)


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize("never", [{"strength": 0.0}, {"start": 0.4, "end": 0.3}])
def test_control_that_never_acts_is_none_bitwise(never):
    chain = chain_of()
    model = graph.patch(model_of("sd15"), chain)
    conds = controlled(prompts(), FIRST._replace(**never))
    plain = graph.rival_sample(model, chain, **prompts(), seed=1)
    assert torch.equal(graph.rival_sample(model, chain, **conds, seed=1), plain)


@pytest.mark.parametrize("applied", [FIRST, ADAPTER])
@pytest.mark.parametrize("negative", [False, True])
def test_the_photo_is_not_reached(negative, applied, monkeypatch):
    chain = chain_of(negative=negative)
    model = graph.patch(model_of("sd15"), chain)
    calls = spied(monkeypatch)
    plain = graph.rival_sample(model, chain, **prompts(), seed=1)
    expected = calls[:]
    calls.clear()
    conds = controlled(prompts(), applied)
    assert_differ(graph.rival_sample(model, chain, **conds, seed=1), plain, 0.01)
    assert len(calls) == len(expected) == chain.steps
    for ours, theirs in zip(calls, expected):
        assert_same_evaluation(ours, theirs)


def assert_same_evaluation(ours, theirs):
    """Bit for bit: latent, predicted noise and every layer's tokens."""
    assert torch.equal(ours.x, theirs.x)
    estimates = [evaluation.denoised or [] for evaluation in (ours, theirs)]  # none if it stopped
    assert len(estimates[0]) == len(estimates[1]) and all(map(torch.equal, *estimates))
    assert ours.tokens.keys() == theirs.tokens.keys()
    for role, layers in theirs.tokens.items():
        assert layers and ours.tokens[role].keys() == layers.keys()
        for layer, tokens in layers.items():
            assert torch.equal(ours.tokens[role][layer].context, tokens.context)
            assert torch.equal(ours.tokens[role][layer].value, tokens.value)
