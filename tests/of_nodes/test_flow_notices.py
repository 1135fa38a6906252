"""What is said of a flow model's chain that is legal, and may be meant, but seldom is."""

from __future__ import annotations

import graph
import pytest
import tiny_dits
import torch
from composing import remembered

pytestmark = pytest.mark.any_host


@remembered
def model_of(family: str):
    return tiny_dits.build(family)


def invert(family: str, **inputs):
    model = model_of(family)
    prompt = inputs.pop("prompt", tiny_dits.conditioning(model, 1))
    widgets = {"steps": 2, **inputs}
    return graph.invert(model, tiny_dits.latent(model, 1), prompt, **widgets)[0]


def test_a_chain_that_begins_below_pure_noise(caplog):
    invert("flux")
    assert "begins at" not in caplog.text
    invert("flux", sigmas=torch.tensor([0.9, 0.5, 0.0]))
    assert "begins at sigma 0.9" in caplog.text and "schedule rival, which begins at 1" in (
        caplog.text
    )


def test_more_steps_than_a_distilled_model_knows(caplog):
    invert("schnell", steps=8)
    assert "distilled" not in caplog.text
    invert("schnell", steps=9)
    assert "FluxSchnell was distilled to 4 steps and the chain has 9" in caplog.text


@pytest.mark.parametrize("guidance, said", [(3.5, ""), (1.0, "the guidance 1.0"),
                                            (None, "no guidance")])
def test_another_guidance_than_the_photos(guidance, said, caplog):
    model, chain = model_of("flux"), invert("flux")
    ((tokens, options),) = tiny_dits.conditioning(model, 2)
    given = {**options, "guidance": guidance}
    if guidance is None:
        del given["guidance"]
    positive = [[tokens, given]]
    graph.rival_sample(graph.patch(model, chain), chain, positive, [[tokens, options]])
    told = f"inverted with the guidance 3.5 in its prompt, and positive has {said}: give"
    assert (told in caplog.text) is bool(said)
