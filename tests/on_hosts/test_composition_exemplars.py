"""Several photos at once, fractions of strength, photos of another size, batches."""

from __future__ import annotations

from functools import partial

import graph
import pytest
import reference_rows
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
ONCE = partial(pytest.param, marks=pytest.mark.any_host)  # one host is enough for another value
RULES = {REPLACE: (True, True), BOTH: (False, True), CONCAT: (False, False)}


def patched(*settings):
    """The tiny model with several patches in a row, each (chain, widgets)."""
    model = model_of("sd15")
    for chain, widgets in settings:
        model = graph.patch(model, chain, **widgets)
    return model


def prediction(model, chain, place, x):
    return predict(guider_of(model, **prompts(), cfg=CFG), x, float(chain.sigmas[place]))


def expected(chains, place, x, replace, normalize, weights=None, strength=1.0):
    """The reference's prediction with the photos' statistics averaged."""
    photos, sigma = [photo(c, place) for c in chains], float(chains[0].sigmas[place])
    asked = (model_of("sd15"), x, sigma, prompts(), CFG, photos, replace, False)
    guided = reference_rows.predict(*asked, strength=strength)
    if not normalize:
        return guided
    eps = (x - guided) / sigma
    aligned = with_statistics(eps, photos, sigma, weights or [1.0] * len(photos))
    return x - sigma * torch.lerp(eps, aligned, strength)


def with_statistics(eps, photos, sigma, weights):
    """eps with the weighted means of the photos' channel means and variances."""
    means, variances = [], []
    for p in photos:
        row = reference_rows.photo_rows([p])[:1]
        (denoised,) = reference_rows.denoise(model_of("sd15"), row, sigma)
        own = (p.x - denoised) / sigma
        means.append(own.mean((2, 3), keepdim=True))
        variances.append(own.var((2, 3), keepdim=True))
    mean = sum(w * m for w, m in zip(weights, means)) / sum(weights)
    variance = sum(w * v for w, v in zip(weights, variances)) / sum(weights)
    unit = (eps - eps.mean((2, 3), keepdim=True)) / (eps.var((2, 3), keepdim=True) + 1e-5).sqrt()
    return unit * (variance + 1e-5).sqrt() + mean


# --- several photos ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", RULES)
def test_two_photos(place):
    """Keys side by side, statistics averaged with the strengths; the order does not matter."""
    one, other = chain_of(), chain_of(seed=1, height=6, width=10)
    x = noised(one, place)
    settings = (one, {"strength": 1.0}), (other, {"strength": 0.5})
    ours = prediction(patched(*settings), one, place, x)
    assert_close(ours, expected([one, other], place, x, *RULES[place], [1.0, 0.5]))
    assert_close(prediction(patched(*reversed(settings)), one, place, x), ours)
    assert_differ(prediction(patched(settings[0]), one, place, x), ours)


def test_two_photos_in_a_variation():
    """Swapped, they give the same result to the last bit."""
    one, other = chain_of(), chain_of(seed=1, height=6, width=10)
    results = [
        graph.rival_sample(patched(*order), one, **prompts(), seed=1)
        for order in ([(one, {}), (other, {})], [(other, {}), (one, {})], [(one, {})])
    ]
    assert torch.equal(results[0], results[1])
    assert_differ(results[0], results[2], 0.01)


@pytest.mark.parametrize("negative", [False, True])
def test_photos_with_and_without_a_negative(negative):
    """Unconditional rows read each chain's unconditional exemplar, where it has one."""
    one, other = chain_of(negative=negative), chain_of(seed=1, negative=not negative)
    x = noised(one, CONCAT)
    ours = prediction(patched((one, {}), (other, {})), one, CONCAT, x)
    assert_close(ours, expected([one, other], CONCAT, x, *RULES[CONCAT]))


@pytest.mark.parametrize("place", RULES)
def test_the_same_photo_twice(place):
    """Its keys count twice; duplicate keys change nothing where own keys are dropped."""
    chain = chain_of()
    x = noised(chain, place)
    twice = prediction(patched((chain, {}), (chain, {})), chain, place, x)
    assert_close(twice, expected([chain, chain], place, x, *RULES[place]))
    once = prediction(patched((chain, {})), chain, place, x)
    if place == REPLACE:
        assert_close(twice, once)
    else:
        assert_differ(twice, once)


def test_own_keys_go_only_where_every_photo_replaces():
    one, other = chain_of(), chain_of(seed=1)
    x = noised(one, REPLACE)
    ours = prediction(patched((one, {}), (other, {"replace_end": 0.1})), one, REPLACE, x)
    assert_close(ours, expected([one, other], REPLACE, x, replace=False, normalize=True))


def test_photos_with_other_gates():
    """At this step one photo is read, and only the other one gives its statistics."""
    one, other = chain_of(), chain_of(seed=1)
    x = noised(one, REPLACE)
    settings = (one, {"normalize_end": 0.1}), (other, {"inject_end": 0.1, "replace_end": 0.1})
    ours = prediction(patched(*settings), one, REPLACE, x)
    guided = expected([one], REPLACE, x, replace=True, normalize=False)
    sigma = float(one.sigmas[REPLACE])
    aligned = with_statistics((x - guided) / sigma, [photo(other, REPLACE)], sigma, [1.0])
    assert_close(ours, x - sigma * aligned)


def test_a_photo_of_strength_0_is_absent():
    one, other = chain_of(), chain_of(seed=1)
    alone = graph.rival_sample(patched((one, {})), one, **prompts(), seed=1)
    for order in ([(one, {}), (other, {"strength": 0.0})], [(other, {"strength": 0.0}), (one, {})]):
        assert torch.equal(graph.rival_sample(patched(*order), one, **prompts(), seed=1), alone)


# --- strength ------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", [pytest.param(False, marks=pytest.mark.any_host), True])
@pytest.mark.parametrize("strength", [ONCE(0.25), 0.5, ONCE(0.9)])
@pytest.mark.parametrize("place", RULES)
def test_strength_blends_every_layer(place, strength, negative):
    chain = chain_of(negative=negative)
    x = noised(chain, place, batch=2)
    ours = prediction(patched((chain, {"strength": strength})), chain, place, x)
    assert_close(ours, expected([chain], place, x, *RULES[place], strength=strength))


def test_more_strength_is_further_from_the_plain_model():
    chain = chain_of()
    plain = graph.rival_sample(model_of("sd15"), chain, **prompts(), seed=1)
    strengths = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    distances = [
        graph.relative(
            graph.rival_sample(patched((chain, {"strength": s})), chain, **prompts(), seed=1), plain
        )
        for s in strengths
    ]
    assert distances[0] == 0.0 and distances[-1] > 0.1
    steps = [b - a for a, b in zip(distances, distances[1:])]
    assert min(steps) > 0.01 * distances[-1], distances


@pytest.mark.parametrize("place", RULES)
def test_two_photos_of_fractional_strength(place):
    """The largest strength blends; the strengths weight the statistics."""
    one, other = chain_of(), chain_of(seed=1, height=6, width=10)
    x = noised(one, place)
    ours = prediction(patched((one, {"strength": 0.2}), (other, {"strength": 0.6})), one, place, x)
    theirs = expected([one, other], place, x, *RULES[place], [0.2, 0.6], strength=0.6)
    assert_close(ours, theirs)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", [pytest.param(False, marks=pytest.mark.any_host), True])
@pytest.mark.parametrize("place", RULES)
@pytest.mark.parametrize("size", [(12, 16), (8, 6)])
def test_another_size_and_aspect(size, place, negative):
    chain = chain_of(height=16, width=8, negative=negative)
    x = noised(chain, place, size=size)
    ours = prediction(patched((chain, {})), chain, place, x)
    assert_close(ours, expected([chain], place, x, *RULES[place]))


@pytest.mark.parametrize("start", ["shuffle", "gaussian"])
def test_variation_of_another_size(start):
    chain, empty = chain_of(height=16, width=8), {"samples": torch.zeros(1, 4, 12, 16)}
    asked = {"seed": 1, "start": start, "latent": empty}
    results = [
        graph.rival_sample(model, chain, **prompts(), **asked)
        for model in (patched((chain, {})), model_of("sd15"))
    ]
    assert results[0].shape == (1, 4, 12, 16)
    assert_differ(*results, 0.01)


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start, size", [ONCE("shuffle", None), ("shuffle", (6, 10)), ONCE("gaussian", None)]
)
def test_a_batch_equals_single_runs(start, size):
    chain = chain_of(negative=True)
    height, width = size or chain.latents.shape[2:]
    one = torch.zeros(1, 4, height, width)

    def sample(**inputs):
        model = patched((chain, {}))
        return graph.rival_sample(model, chain, **prompts(), seed=1, start=start, **inputs)

    batch = sample(batch_size=3, latent={"samples": one})
    for i in range(3):
        single = sample(latent={"samples": one, "batch_index": [i]})
        assert_close(batch[i : i + 1], single)
    assert_close(sample(latent={"samples": one.expand(3, -1, -1, -1)}), batch)
    assert_differ(batch[1:2], batch[:1], 0.01)


def test_reference_is_not_vacuous():
    """The oracle itself tells injection, replacement and normalisation apart."""
    chain = chain_of()
    x = noised(chain, BOTH)
    results = [
        expected([chain], BOTH, x, replace, normalize)
        for replace in (True, False)
        for normalize in (True, False)
    ]
    results.append(expected([chain], BOTH, x, False, False, strength=0.0))
    for i, one in enumerate(results):
        for other in results[:i]:
            assert_differ(one, other, 0.01)
    sigma = float(chain.sigmas[BOTH])
    plain = predict(guider_of(model_of("sd15"), **prompts(), cfg=CFG), x, sigma)
    assert_close(results[-1], plain)
