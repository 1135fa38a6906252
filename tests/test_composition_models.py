"""Other weights beside the patch: LoRA, LoRA scheduled by hooks, ControlNet."""

from __future__ import annotations

import graph
import pytest
import seeded
import tiny
import torch
from composing import (
    CONCAT,
    REPLACE,
    assert_close,
    assert_differ,
    chain_of,
    guider_of,
    latent,
    model_of,
    noised,
    predict,
    prompts,
    remembered,
    run_node,
    spied,
    watched,
)
from row_checks import assert_rows, names_of, texts

pytestmark = pytest.mark.host
CFG, RANK, ALPHA = 4.0, 4, 2.0
PLACES = [REPLACE, CONCAT]
CHANGED = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_k", "ff.net.2")


# --- LoRA ----------------------------------------------------------------------------------------


@remembered
def lora() -> dict[str, torch.Tensor]:
    """A LoRA file's content: low-rank changes of self- and cross-attention and of feed-forward."""
    generator, content = torch.Generator().manual_seed(11), {}
    for name, module in model_of("sd15").model.named_modules():
        if name.endswith(CHANGED):
            rows, columns = module.weight.shape
            content[f"{name}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator) / 2
            down = torch.randn(RANK, columns, generator=generator)
            content[f"{name}.lora_down.weight"] = down / columns**0.5
            content[f"{name}.alpha"] = torch.tensor(ALPHA)
    return content


@remembered
def changed_for_good(strength: float):
    """The tiny model with the LoRA in its weights."""
    model = tiny.build("sd15")
    with torch.no_grad():
        for name, module in model.model.named_modules():
            if name.endswith(CHANGED):
                up, down = (lora()[f"{name}.lora_{part}.weight"] for part in ("up", "down"))
                module.weight += strength * (ALPHA / RANK) * (up @ down)
    return model


def with_lora(model, strength: float = 0.8):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora(), strength, 0.0)[0]


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


# --- LoRA scheduled by hooks ---------------------------------------------------------------------

STRENGTHS = {0.0: 0.5, 0.5: 1.2}  # from this part of the schedule on


def scheduled_lora():
    """The LoRA as HOOKS, at a strength that depends on the step."""
    import comfy.hooks

    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in STRENGTHS.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    hooks = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0)
    hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def hooked(names) -> dict[str, list]:
    """The prompts; those of these names with the LoRA, all with the same hooks."""
    import comfy.hooks

    conds, hooks = prompts(), scheduled_lora()
    for name in names:
        conds[name] = comfy.hooks.set_hooks_for_conditioning(conds[name], hooks)
    return conds


def strength_at(place: int, chain) -> float:
    """t = 801 and 601 come before the middle of the schedule, 401, 201 and 1 after it."""
    return STRENGTHS[0.0] if place % len(chain.sigmas) >= 4 else STRENGTHS[0.5]


def state(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("which", [("positive",), ("negative",), ("positive", "negative")])
def test_hook_lora(which, negative):
    """At every step the photo runs without the hooks' weights, hooked prompts with them."""
    model, chain = tiny.build("sd15"), chain_of(negative=negative)
    before = state(model)
    patched, seen = watched(graph.patch(model, chain))
    conds = hooked(which)

    def sample():
        return graph.rival_sample(patched, chain, **conds, seed=1)

    def model_for(name, place):
        base = model_of("sd15")
        return changed_for_good(strength_at(place, chain)) if name in which else base

    first = sample()
    after = state(model)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    rows = seen[:]
    assert torch.equal(sample(), first)
    assert len(seen) == 2 * len(rows)
    assert {"positive", "negative"} == {s[0] for s in assert_rows(model, rows, chain, model_for)}
    assert names_of(rows).count("photo +") == chain.steps


# --- ControlNet ----------------------------------------------------------------------------------

STRENGTH = 0.6


@remembered
def control_net():
    """A tiny ControlNet of ComfyUI's own class, shaped for the tiny SD1.5."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = tiny._unet_config((1, 1), num_heads=4, num_head_channels=-1)
    for unused in ("out_channels", "transformer_depth_output", "use_temporal_attention",
                   "use_temporal_resblock"):  # fmt: skip
        del config[unused]
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    network.eval().requires_grad_(False)
    seeded.fill(network, 5)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def hint(height=8, width=8):
    generator = torch.Generator().manual_seed(21)
    return torch.rand(1, 8 * height, 8 * width, 3, generator=generator)


def controlled(image, conds) -> dict:
    from nodes import ControlNetApplyAdvanced

    settings = {"strength": STRENGTH, "start_percent": 0.0, "end_percent": 1.0}
    out = run_node(
        ControlNetApplyAdvanced, **conds, control_net=control_net(), image=image, **settings
    )
    return dict(zip(("positive", "negative"), out))


@torch.no_grad()
def residuals(row, name, image) -> dict:
    """What the ControlNet says of one row."""
    x = row.x / (1 + row.sigma**2) ** 0.5
    sampling = model_of("sd15").get_model_object("model_sampling")
    t = sampling.timestep(torch.tensor([row.sigma])).float()
    context = texts()[name][0][0]
    network = control_net().control_model
    out = network(x=x, hint=image.movedim(-1, 1), timesteps=t, context=context)
    return {key: [STRENGTH * residual for residual in values] for key, values in out.items()}


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_control_net_rows(place, negative):
    """Generated rows take its residuals, the photo's rows none; the sizes need not agree."""
    chain, image, size = chain_of(negative=negative, height=10, width=6), hint(8, 12), (8, 12)
    model, seen = watched(graph.patch(model_of("sd15"), chain))
    guider = guider_of(model, **controlled(image, prompts()), cfg=CFG)
    predict(guider, noised(chain, place, size=size), float(chain.sigmas[place]))
    shapes = assert_rows(
        model_of("sd15"),
        seen,
        chain,
        arguments=lambda name, row: {"control": residuals(row, name, image)},
    )
    assert shapes == {("positive", *size), ("negative", *size)}
    assert len(seen) == 3 + negative


@pytest.mark.parametrize("negative", [False, True])
def test_control_net_does_not_reach_the_photo(negative, monkeypatch):
    chain = chain_of(negative=negative)
    model = graph.patch(model_of("sd15"), chain)
    calls = spied(monkeypatch)
    plain = graph.rival_sample(model, chain, **prompts(), seed=1)
    expected = calls[:]
    calls.clear()
    conds = controlled(hint(), prompts())
    assert_differ(graph.rival_sample(model, chain, **conds, seed=1), plain, 0.01)
    assert len(calls) == len(expected) == chain.steps
    for ours, theirs in zip(calls, expected):
        assert_same_evaluation(ours, theirs)


def assert_same_evaluation(ours, theirs):
    """Bit for bit: latent, predicted noise and every layer's tokens."""
    assert torch.equal(ours.x, theirs.x)
    assert all(torch.equal(a, b) for a, b in zip(ours.denoised, theirs.denoised))
    assert ours.tokens.keys() == theirs.tokens.keys()
    for role, layers in theirs.tokens.items():
        assert layers and ours.tokens[role].keys() == layers.keys()
        for layer, tokens in layers.items():
            assert torch.equal(ours.tokens[role][layer].context, tokens.context)
            assert torch.equal(ours.tokens[role][layer].value, tokens.value)
