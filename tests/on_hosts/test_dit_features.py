"""Features of a DiT, and of a UNet sampled as a flow: kept, handed over, and reckoned with."""

from __future__ import annotations

import graph
import pytest
import spies
import tiny_dits
import torch
from composing import remembered, run_node

pytestmark = pytest.mark.any_host
STEPS = 4
FAMILIES = ("flux", "lumina2", "wan", "sd3", "sd15")


@remembered
def model_of(family: str):
    if family in tiny_dits.FAMILIES:
        return tiny_dits.build(family)
    import tiny
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return run_node(ModelSamplingSD3, tiny.calm(tiny.build(family, levels=1)), 3.0)[0]


def prompt(family: str, seed: int) -> list:
    import tiny

    maker = tiny_dits if family in tiny_dits.FAMILIES else tiny
    return maker.conditioning(model_of(family), seed)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def invert(family: str, **inputs):
    import tiny

    model = model_of(family)
    photo = tiny_dits.latent(model, 4) if family in tiny_dits.FAMILIES else tiny.latent(4, size=8)
    widgets = {"steps": STEPS, "schedule": "simple", "solver": "anderson", "iterations": 40}
    return graph.invert(model, photo, prompt(family, 1), **{**widgets, **inputs})[0]


def run(family: str, chain, features: str, **patch):
    """The samples, and the rows of every model call."""
    model = model_of(family)
    with spies.photos_apart(), spies.model_rows(model) as calls:
        patched = graph.patch(model, chain, features=features, **patch)
        samples = graph.rival_sample(patched, chain, prompt(family, 3), prompt(family, 2))
    return samples, [rows for rows, _ in calls]


def test_later_runs_pay_no_row_and_equal_live_bitwise(family):
    chain = invert(family)
    live, _ = run(family, chain, "live")
    first, calls = run(family, chain, "cached")
    assert torch.equal(first, live) and calls.count(1) == STEPS
    again, calls = run(family, chain, "cached")
    assert torch.equal(again, live) and 1 not in calls
    small, _ = run(family, chain, "cached_int8")
    assert 0 < graph.relative(small, live) < 0.1


def test_what_an_inversion_hands_over(family):
    handed = invert(family, features="cached", tolerance=1e-6)
    assert float(handed.residuals.max()) < 1e-4
    first, calls = run(family, handed, "cached")
    live, _ = run(family, handed, "live")
    assert 1 not in calls and graph.relative(first, live) < 2e-3


@pytest.mark.usefixtures("photos_apart")
def test_a_photo_of_another_prompts_length(family):
    """Kept features know where the text put the photo."""
    chain = invert(family)
    run(family, chain, "cached")
    model = model_of(family)
    maker = tiny_dits if family in tiny_dits.FAMILIES else __import__("tiny")
    longer = maker.conditioning(model, 5, tokens=40)
    found = [
        graph.rival_sample(graph.patch(model, chain, features=f), chain, longer, longer)
        for f in ("live", "cached")
    ]
    assert torch.equal(*found)


def test_the_host_is_told_what_a_step_lends(monkeypatch):
    """Flux of 12 blocks of 3072 at a megapixel would lend gigabytes: here, what ours does."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.steering.exemplar import Exemplar

    model, chain = model_of("flux"), invert("flux")
    blocks, tokens, width = 4, 16, 128
    lent = 2 * blocks * tokens * width * 4  # bytes: keys and values in float32
    monkeypatch.setattr(model.model, "memory_required", lambda shape: lent / 2.5)
    assert host.with_lent(model, [1, 16, 8, 8], [Exemplar(chain)]) == [1 + 3, 16, 8, 8]
    assert host.with_lent(model, [1, 16, 8, 8], [Exemplar(chain, strength=0.0)]) == [1, 16, 8, 8]


def test_what_does_not_fit_is_refused_before_it_is_kept(monkeypatch):
    from comfyui_rival.nodes import host

    monkeypatch.setattr(host, "room_for_features", lambda *_: [(torch.device("cpu"), 1000)])
    chain = invert("flux")
    with pytest.raises(ValueError, match=r"^RIVAL Patch Model: .* GB on cpu: choose a smaller p"):
        run("flux", chain, "cached")
    assert not chain.features.rows
