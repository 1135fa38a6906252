"""Beside other nodes that change the MODEL: before and after RIVAL Patch Model alike."""

from __future__ import annotations

import math

import graph
import pytest
import reference_rows
import torch
from composing import (
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
    run_node,
)

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CFG, SCALE = 4.0, 1.0
MIDDLE = "middle_block.1.transformer_blocks.0.attn1"
INPUT = "input_blocks.1.1.transformer_blocks.0.attn1"
RULES = {REPLACE: (True, True), CONCAT: (False, False)}
TAKEN = "another node computes the self-attention of"


def tome(model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return run_node(TomePatchModel, model, ratio=0.5)[0]


def hypertile(model):
    """Tiles of 4 x 4 tokens or more, their number drawn at random, at both levels of the UNet.

    Where it cuts no tiles it changes nothing, so a difference shows that it does.
    """
    from comfy_extras.nodes_hypertile import HyperTile

    widgets = {"tile_size": 32, "swap_size": 3, "max_depth": 1, "scale_depth": False}
    return run_node(HyperTile, model, **widgets)[0]


def free_u(model):
    from comfy_extras.nodes_freelunch import FreeU

    return run_node(FreeU, model, b1=1.1, b2=1.2, s1=0.9, s2=0.2)[0]


def scaled_keys(model):
    """Another pack's attn1 patch; keys and values part ways."""
    model = model.clone()
    model.set_model_attn1_patch(lambda n, context, value, _: (n, 1.5 * context, value))
    return model


def scaled_context(model):
    """Another pack's attn1 patch; keys and values stay one tensor."""
    model = model.clone()

    def scale(n, context, value, extra_options):
        context = 1.5 * context
        return n, context, context

    model.set_model_attn1_patch(scale)
    return model


def perturbed_attention(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return run_node(PerturbedAttentionGuidance, model, scale=SCALE)[0]


def self_attention_guidance(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return run_node(SelfAttentionGuidance, model, scale=SCALE, blur_sigma=2.0)[0]


def own_values(q, k, v, extra_options=None):
    return v


def replaced_attention(model):
    """Another pack's attn1 replaces, by (name, number) and by (name, number, depth)."""
    model = model.clone()
    model.set_model_attn1_replace(own_values, "middle", 0)
    model.set_model_attn1_replace(own_values, "input", 1, 0)
    return model


def guided(model, chain, place, x, seed=5):
    """One prediction of a MODEL; nodes that draw random numbers draw the same."""
    torch.manual_seed(seed)
    return predict(guider_of(model, **prompts(), cfg=CFG), x, float(chain.sigmas[place]))


def in_both_orders(node, model, chain, place, x, **widgets):
    """The prediction with the node and the patch on one MODEL; their order must not matter."""
    after = node(graph.patch(model, chain, **widgets))
    before = graph.patch(node(model), chain, **widgets)
    ours = guided(after, chain, place, x)
    assert_close(ours, guided(before, chain, place, x))
    return ours


def assert_both_act(ours, node, model, chain, place, x):
    assert_differ(ours, guided(node(model), chain, place, x))
    assert_differ(ours, guided(graph.patch(model, chain), chain, place, x))


@pytest.mark.parametrize("height, width", [(16, 16), (6, 10)])
@pytest.mark.parametrize("place", RULES)
@pytest.mark.parametrize("node", [tome, hypertile, free_u, scaled_keys, scaled_context])
def test_patches_of_the_model(node, place, height, width):
    """The photo may have another size: merged or tiled queries read all of it."""
    model, chain = model_of("sd15"), chain_of(height=height, width=width)
    x, sigma = noised(chain, place, size=(16, 16)), float(chain.sigmas[place])
    ours = in_both_orders(node, model, chain, place, x)
    torch.manual_seed(5)
    photos = [photo(chain, place)]
    theirs = reference_rows.predict(
        node(model), x, sigma, prompts(), CFG, photos, *RULES[place], appended=False
    )
    assert_close(ours, theirs)
    assert_both_act(ours, node, model, chain, place, x)


@pytest.mark.parametrize("node", [tome, hypertile, scaled_keys])
def test_fractional_strength_beside_patches(node):
    """Plain and injected attention are both cut, merged or scaled as the other node asks."""
    model, chain, place = model_of("sd15"), chain_of(height=16, width=16), CONCAT
    x, sigma = noised(chain, place), float(chain.sigmas[place])
    ours = in_both_orders(node, model, chain, place, x, strength=0.5)
    torch.manual_seed(5)
    settings = {"appended": False, "strength": 0.5}
    theirs = reference_rows.predict(
        node(model), x, sigma, prompts(), CFG, [photo(chain, place)], *RULES[place], **settings
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("place", RULES)
def test_replaced_attention_stays_plain(place, strength):
    model, chain = model_of("sd15"), chain_of()
    x, sigma = noised(chain, place), float(chain.sigmas[place])
    ours = in_both_orders(replaced_attention, model, chain, place, x, strength=strength)
    theirs = reference_rows.predict(
        *(model, x, sigma, prompts(), CFG, [photo(chain, place)], *RULES[place]),
        strength=strength,
        replaced={MIDDLE: own_values, INPUT: own_values},
    )
    assert_close(ours, theirs)
    assert_both_act(ours, replaced_attention, model, chain, place, x)


def rows_at(model, chain, place, x):
    """(photos, all rows, their outputs' names)"""
    photos = [photo(chain, place)]
    theirs = reference_rows.generated_rows(x, prompts(), photos, RULES[place][0])
    return photos, [*reference_rows.photo_rows(photos), *theirs]


def finished(x, chain, place, estimate, photo_estimate):
    """The estimate, normalised where the gates say so."""
    if not RULES[place][1]:
        return estimate
    sigma = float(chain.sigmas[place])
    return reference_rows.normalized(x, estimate, photo(chain, place).x, photo_estimate, sigma)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", RULES)
def test_perturbed_attention_guidance(place, negative):
    """In its own call the middle block reads nothing, and all others the photo."""
    model, chain = model_of("sd15"), chain_of(negative=negative)
    x, sigma = noised(chain, place), float(chain.sigmas[place])
    _, rows = rows_at(model, chain, place, x)
    tokens = {}
    first, *_, cond, uncond = reference_rows.denoise(model, rows, sigma, tokens)
    replaced = {MIDDLE: own_values}
    (perturbed,) = reference_rows.denoise(model, rows[-2:-1], sigma, tokens, replaced)
    estimate = uncond + CFG * (cond - uncond) + SCALE * (cond - perturbed)
    ours = in_both_orders(perturbed_attention, model, chain, place, x)
    assert_close(ours, finished(x, chain, place, estimate, first))
    assert_both_act(ours, perturbed_attention, model, chain, place, x)


def attention_map(q, k, heads):
    q, k = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k))
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", RULES)
def test_self_attention_guidance(place, negative, monkeypatch):
    """The middle block stays plain; SAG sees the unconditional generated row's own map."""
    import comfy_extras.nodes_sag as nodes_sag

    model, chain = model_of("sd15"), chain_of(negative=negative)
    x, sigma = noised(chain, place), float(chain.sigmas[place])
    given, maps = [], []
    layer = reference_rows.attention_layers(model)[MIDDLE]

    def blur(x0, attention, *_):
        given.append(attention)
        return 0.5 * x0

    def plain(q, k, v):
        maps.append(attention_map(q, k, layer.heads))
        return reference_rows.attention_of(layer)(q, k, v)

    monkeypatch.setattr(nodes_sag, "create_blur_map", blur)
    _, rows = rows_at(model, chain, place, x)
    tokens, replaced = {}, {MIDDLE: plain}
    first, *_, cond, uncond = reference_rows.denoise(model, rows, sigma, tokens, replaced)
    own_map, degraded = maps[-1], 0.5 * uncond
    row = rows[-1]._replace(x=degraded + x - uncond)
    (other,) = reference_rows.denoise(model, [row], sigma, tokens, replaced)
    estimate = uncond + CFG * (cond - uncond) + SCALE * (degraded - other)
    ours = in_both_orders(self_attention_guidance, model, chain, place, x)
    assert_close(ours, finished(x, chain, place, estimate, first))
    assert_close(given[0], own_map)
    assert_both_act(ours, self_attention_guidance, model, chain, place, x)


@pytest.mark.parametrize("node", [perturbed_attention, self_attention_guidance, replaced_attention])
def test_a_taken_block_is_logged_once_a_run(node, caplog):
    model, chain = node(graph.patch(model_of("sd15"), chain_of())), chain_of()
    for runs in (1, 2):
        graph.rival_sample(model, chain, **prompts(), seed=1)
        messages = [r.getMessage() for r in caplog.records if TAKEN in r.getMessage()]
        assert len(messages) == runs
    assert "middle 0" in messages[0]


@pytest.mark.parametrize("node", [tome, hypertile, free_u, scaled_keys])
def test_nothing_is_logged_for_patches(node, caplog):
    model, chain = node(graph.patch(model_of("sd15"), chain_of())), chain_of()
    graph.rival_sample(model, chain, **prompts(), seed=1)
    assert not [r for r in caplog.records if "RIVAL" in r.getMessage()]
