"""exemplar_mask: only a part of the photo is read, and gives its statistics."""

from __future__ import annotations

import graph
import pytest
import torch
from comfyui_rival.rival_core.chain.tokens import Tokens
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.masks import tokens_inside
from comfyui_rival.rival_core.steering.normalization import statistics
from comfyui_rival.rival_core.steering.step import Step, steering
from spies import key_lengths

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15")
    prompts = [tiny.conditioning(model, i) for i in (1, 2)]
    chain, _ = graph.invert(model, tiny.latent(2, size=8), prompts[0], steps=5)
    return {"model": model, "prompts": prompts, "chain": chain}


def left(share: float) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, : round(64 * share)] = 1
    return mask


def sample(setup, **patched):
    model = graph.patch(setup["model"], setup["chain"], **patched)
    return graph.rival_sample(model, setup["chain"], *setup["prompts"])


def test_tokens_are_those_that_the_mask_half_covers():
    assert tokens_inside(left(0.5), 16, (4, 4)).tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert tokens_inside(left(0.5), 4, (4, 4)).tolist() == [0, 2]
    assert tokens_inside(left(0.74), 4, (4, 4)).tolist() == [0, 2]
    assert tokens_inside(left(0.76), 4, (4, 4)).tolist() == [0, 1, 2, 3]


def test_a_speck_keeps_its_most_covered_token():
    mask = torch.zeros(1, 64, 64)
    mask[0, 20, 40] = 1
    assert tokens_inside(mask, 16, (4, 4)).tolist() == [6]


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(RivalError, match=r"13 tokens .*exemplar_mask"):
        tokens_inside(left(0.5), 13, (4, 4))


def test_a_full_mask_is_none_bitwise(setup):
    assert torch.equal(sample(setup, exemplar_mask=left(1.0)), sample(setup))


def test_only_the_masked_tokens_are_read(setup):
    plain = {"normalize_end": 0.0, "replace_end": 0.0}
    model = graph.patch(setup["model"], setup["chain"], exemplar_mask=left(0.25), **plain)
    with key_lengths(setup["model"]) as found:
        graph.rival_sample(model, setup["chain"], *setup["prompts"])
    whole = {length for lengths in found.values() for length in lengths}
    assert whole == {64 + 16, 16 + 4}, "a quarter of the photo's tokens at either resolution"


def test_what_is_read_is_the_photos_own(setup):
    chain = setup["chain"]
    layer = (("input", 1), 0)
    step = Step(1.0, steering([Exemplar(chain, Gates(), seen=left(0.5))], 500))
    hidden = torch.randn(1, 64, 6)
    step.tokens[id(chain), "positive"] = {layer: Tokens(hidden, hidden)}
    read = step.read(layer, "positive")
    assert torch.equal(read.context, hidden.view(1, 8, 8, 6)[:, :, :4].reshape(1, 32, 6))
    assert read.value is read.context


def test_the_colours_are_those_of_the_masked_part(setup):
    eps = torch.randn(1, 4, 8, 8)
    eps[..., 4:] += 5
    exemplar = Exemplar(setup["chain"], seen=left(0.5))
    expected = statistics(eps[..., :4])
    torch.testing.assert_close(exemplar.statistics(eps), expected)
    assert not torch.allclose(statistics(eps).mean, expected.mean)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_another_part_makes_another_image(setup, strength):
    images = [sample(setup, exemplar_mask=mask, strength=strength)
              for mask in (left(1.0), left(0.5), 1 - left(0.5))]
    for i, a in enumerate(images):
        assert torch.isfinite(a).all()
        assert all(graph.relative(a, b) > 1e-3 for b in images[i + 1 :])


@pytest.mark.parametrize("mask, said", [
    (torch.zeros(1, 64, 64), "covers nothing"),
    (torch.ones(2, 64, 64), r"\[2, 64, 64\]"),
    (torch.zeros(1, 0, 64), r"\[1, 0, 64\]"),
    (torch.full((1, 8, 8), float("nan")), "NaN"),
])
def test_bad_input(setup, mask, said):
    with pytest.raises(ValueError, match=rf"^RIVAL Patch Model: .*{said}.*\.$"):
        graph.patch(setup["model"], setup["chain"], exemplar_mask=mask)
