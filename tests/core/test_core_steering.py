"""Noise normalisation, cross-image attention, and several exemplars acting as one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.chain.tokens import Tokens, join
from comfyui_rival.rival_core.inversion.scaling import Scaling
from comfyui_rival.rival_core.steering.attention import blended_attention, lengthen
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.normalization import Statistics, adain, average, statistics
from comfyui_rival.rival_core.steering.step import normalize, steering

random = partial(torch.randn, dtype=torch.float64)
sdpa = torch.nn.functional.scaled_dot_product_attention


def exemplar(strength=1.0, **gates):
    chain = Chain(torch.tensor([0.1, 1.0]), torch.zeros(2, 4, 2, 2), Scaling(14.6), CARD, [])
    return Exemplar(chain, Gates(**gates), strength)


CARD = ModelCard("SD15", "SD15", ())


def test_adain_takes_the_mean_exactly_and_the_variance_as_officially():
    g, r = 0.2 + 0.1 * random(2, 4, 6, 5), 3.0 + 2.0 * random(1, 4, 9, 9)
    out, own, target = statistics(adain(g, statistics(r))), statistics(g), statistics(r)
    assert torch.allclose(out.mean, target.mean.expand_as(out.mean), rtol=1e-12)
    expected = (target.var + 1e-5) * own.var / (own.var + 1e-5)
    assert torch.allclose(out.var, expected, rtol=1e-12)
    assert torch.allclose(own.var, g.var((2, 3), unbiased=True, keepdim=True))


def test_adain_identities():
    g, r = random(3, 4, 6, 5), statistics(random(1, 4, 8, 8))
    once = adain(g, r)
    assert torch.allclose(adain(once, r), once, atol=1e-4)
    assert torch.allclose(adain(g, statistics(g)), g, atol=1e-12)
    order = torch.randperm(30)
    shuffled = g.flatten(2)[:, :, order].view_as(g)
    assert torch.allclose(adain(shuffled, r), once.flatten(2)[:, :, order].view_as(g), atol=1e-12)
    for i in range(3):
        assert torch.allclose(adain(g[i : i + 1], r)[0], once[i], atol=1e-12)


def test_statistics_average_with_the_strengths_as_weights():
    a, b = Statistics(torch.zeros(1), torch.ones(1)), Statistics(torch.ones(1), torch.zeros(1))
    mean, var = average([a, b], [0.5, 0.25])
    assert float(mean) == pytest.approx(1 / 3) and float(var) == pytest.approx(2 / 3)


def test_strength_blends_the_normalised_noise():
    g, r = random(1, 4, 6, 6), statistics(random(1, 4, 6, 6) * 3)
    assert torch.equal(normalize(g, [r], [1.0]), adain(g, r))
    assert torch.allclose(normalize(g, [r], [0.3]), 0.7 * g + 0.3 * adain(g, r))


def test_each_chunk_of_rows_reads_its_own_exemplar():
    own = random(6, 5, 3)
    cond, uncond = random(1, 7, 3), random(1, 7, 3)
    longer = lengthen(own, [uncond, cond], rows=3, replace=False)
    assert torch.equal(longer[:, 7:], own)
    assert torch.equal(longer[:3, :7], uncond.expand(3, -1, -1))
    assert torch.equal(longer[3:, :7], cond.expand(3, -1, -1))
    assert torch.equal(lengthen(own, [uncond, cond], 3, True), longer[:, :7])


def test_one_exemplar_for_all_rows_is_a_view():
    own, tokens = random(6, 5, 3), random(1, 7, 3)
    read = lengthen(own, [tokens, tokens], rows=3, replace=True)
    assert read.data_ptr() == tokens.data_ptr() and read.shape == (6, 7, 3)


def test_duplicate_keys_leave_attention_unchanged():
    """If the exemplar's tokens are the row's own, plain, replace and concat agree."""
    q, own = random(2, 5, 8), random(2, 5, 8)
    plain = sdpa(q, own, own)
    for replace in (False, True):
        longer = torch.cat([lengthen(own[i : i + 1], [own[i : i + 1]], 1, replace) for i in (0, 1)])
        assert torch.allclose(sdpa(q, longer, longer), plain, atol=1e-12)


@pytest.mark.parametrize("replace", [False, True])
def test_blended_attention_is_the_weighted_sum(replace):
    q, ex, own = random(2, 5, 8), random(2, 7, 8), random(2, 5, 8)
    k = torch.cat([ex, own], 1)
    injected = sdpa(q, ex, ex) if replace else sdpa(q, k, k)
    expected = 0.7 * sdpa(q, own, own) + 0.3 * injected
    assert torch.allclose(blended_attention(sdpa, q, k, k, 7, replace, 0.3), expected)


def test_joined_tokens_share_one_tensor_unless_values_differ():
    a, b = random(1, 2, 3), random(1, 4, 3)
    joined = join([Tokens(a, a), Tokens(b, b)])
    assert joined.value is joined.context and joined.context.shape == (1, 6, 3)
    parted = join([Tokens(a, 2 * a), Tokens(b, b)])
    assert torch.equal(parted.value, torch.cat([2 * a, b], 1))


def test_own_keys_drop_only_where_every_reader_replaces():
    long, short = exemplar(replace_end=0.8), exemplar(replace_end=0.2)
    assert steering([long, short], 901).replace
    assert not steering([long, short], 501).replace
    assert steering([long], 501).replace


def test_steering_does_not_depend_on_the_order():
    a, b = exemplar(0.5, normalize_end=0.9), exemplar(0.8, inject_end=0.5)
    for t in (981, 601, 301, 1):
        one, two = steering([a, b], t), steering([b, a], t)
        assert set(one.readers) == set(two.readers)
        assert set(one.normalizers) == set(two.normalizers)
        assert (one.replace, one.attention_strength) == (two.replace, two.attention_strength)


def test_strength_zero_takes_no_part():
    a = exemplar()
    off = exemplar(0.0, replace_end=0.0)
    assert steering([a, off], 981) == steering([a], 981)
    assert steering([off], 981).chains == ()


def test_each_chain_runs_once_a_step():
    a = exemplar()
    again = Exemplar(a.chain, Gates(replace_end=0.1), 0.5)
    assert len(steering([a, again, exemplar()], 981).chains) == 2
