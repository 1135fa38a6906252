"""An exemplar whose prompt brings a LoRA along (hooks): it inverts, and is read, with it."""

from __future__ import annotations

import graph
import pytest
import reference_rows
import tiny
import torch
from composing import (
    CONCAT,
    assert_close,
    assert_differ,
    chain_of,
    latent,
    model_of,
    prompt,
    prompts,
    run_node,
    watched,
)
from loras import (
    STRENGTHS,
    changed_for_good,
    hook_lora,
    hooked,
    lora,
    state,
    strength_at,
    with_lora,
)
from reference_rows import Row
from row_checks import assert_rows, names_of, place_of, texts

pytestmark = [pytest.mark.host, pytest.mark.sampled]
CONSTANT = {0.0: 0.8}


def invert(model, hooks, steps=5, **inputs):
    positive = hooked(texts()["photo +"], hooks)
    return graph.invert(model, {"samples": latent(1)}, positive, steps=steps, **inputs)[0]


@pytest.mark.parametrize("solver", ["ddim", "anderson"])
def test_inversion_equals_that_of_changed_weights(solver):
    base = tiny.build("sd15")
    before = state(base)
    chain = invert(base, hook_lora(CONSTANT), solver=solver)
    photo, changed = {"samples": latent(1)}, changed_for_good(0.8)
    expected, _ = graph.invert(changed, photo, texts()["photo +"], steps=5, solver=solver)
    assert_close(chain.latents, expected.latents, 1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in state(base).items())


@pytest.mark.parametrize("solver", ["ddim", "fixed_point"])
def test_each_step_up_has_the_strength_of_its_sigma(solver):
    """Though the keyframes of ComfyUI go one way, down."""
    model = tiny.build("sd15")
    with watched(model) as seen:
        chain = invert(model, hook_lora(STRENGTHS), solver=solver, iterations=2, tolerance=0.0)
    assert len(seen) == 5 * (1 if solver == "ddim" else 2)
    for row in seen:
        changed = changed_for_good(strength_at(place_of(row, chain), chain))
        asked = [Row("own", row.x, texts()["photo +"])]
        (expected,) = reference_rows.denoise(changed, asked, row.sigma)
        assert_close(row.denoised, expected)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_strength_is_what_the_host_would_choose_on_its_way_down(steps):
    """In whatever order sigmas are asked for, and however long a keyframe is to be held."""
    import comfy.hooks
    from comfyui_rival.nodes.host import loras

    model = model_of("sd15")
    sigmas, frames = torch.logspace(-1.5, 1.16, 12), comfy.hooks.HookKeyframeGroup()
    for start, strength in ((0.1, 0.2), (0.3, 1.0), (0.31, 0.4), (0.7, 0.0)):
        frames.add(comfy.hooks.HookKeyframe(strength, start, guarantee_steps=steps))
    hooks = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0)
    hooks.set_keyframes_on_hooks(frames)
    (hook,) = hooks.hooks
    hook.initialize_timesteps(model.model)
    ours, expected = loras.ScheduledLoras(hooks, sigmas), {}
    for sigma in sigmas.flip(0).tolist():
        hook.hook_keyframe.prepare_current_keyframe(sigma, {"sample_sigmas": sigmas})
        expected[sigma] = hook.strength
    assert len(set(expected.values())) > 2
    ours.hooks[0].initialize_timesteps(model.model)
    for sigma in [*expected, *reversed(expected)]:
        assert ours.strength(ours.hooks[0].hook_keyframe, sigma) == expected[sigma]
    assert hook.strength == expected[float(sigmas[0])], "the prompts' own hooks were moved"


CASES = {  # the photo's strengths, and which other prompts have a LoRA: the photo's or another's
    "photo alone": (CONSTANT, {}),
    "scheduled": (STRENGTHS, {}),
    "the same for both": (STRENGTHS, {"positive": 11}),
    "another one": (STRENGTHS, {"positive": 12, "negative": 12}),
}


@pytest.mark.parametrize(("case", "negative"), [
    pytest.param("photo alone", False, marks=pytest.mark.any_host),
    pytest.param("scheduled", True, marks=pytest.mark.any_host),
    pytest.param("the same for both", False, marks=pytest.mark.any_host),
    ("the same for both", True),
    ("another one", True),
])
def test_every_row_has_the_weights_of_its_own_prompt(case, negative):
    base, (strengths, others) = tiny.build("sd15"), CASES[case]
    hooks = {11: hook_lora(strengths), 12: hook_lora({0.0: 0.7}, seed=12)}
    own = {"negative": hooked(texts()["photo -"], hooks[11])} if negative else {}
    chain = invert(base, hooks[11], **own)
    before = state(base)
    model, conds = graph.patch(base, chain), prompts()
    conds |= {name: hooked(conds[name], hooks[seed]) for name, seed in others.items()}

    def model_for(name, place):
        seed = 11 if name.startswith("photo") else others.get(name)
        if seed is None:
            return model_of("sd15")
        strength = 0.7 if seed == 12 else strength_at(place, chain, strengths)
        return changed_for_good(strength, seed)

    with watched(model) as rows:
        first = graph.rival_sample(model, chain, **conds, seed=1)
    assert names_of(rows).count("photo +") == chain.steps
    assert_rows(base, rows, chain, model_for)
    assert all(torch.equal(weight, before[name]) for name, weight in state(base).items())
    assert torch.equal(graph.rival_sample(model, chain, **conds, seed=1), first)


def test_weights_are_kept_for_the_strength_in_use_only(monkeypatch):
    """Switching costs copies, not a LoRA computed anew; the host drops what a run has kept."""
    from comfyui_rival.nodes import host

    base, kept, evaluate = tiny.build("sd15"), [], host.evaluate
    chain = invert(base, hook_lora({0.1 * i: 0.1 * i for i in range(10)}))

    def spy(model, *args):
        out = evaluate(model, *args)
        kept.append(len(model.current_patcher.cached_hook_patches))
        return out

    monkeypatch.setattr(host, "evaluate", spy)
    patched = graph.patch(base, chain)
    graph.rival_sample(patched, chain, **prompts(), seed=1)
    assert kept == [1] * 5
    assert not patched.cached_hook_patches and not base.hook_patches


def test_core_samplers_and_loaded_loras_get_along():
    """LoraLoader changes all weights, before or after the patch; the photo's LoRA adds to it."""
    base, both = tiny.build("sd15"), tiny.build("sd15")
    hooks = hook_lora({0.0: 0.3})
    loaded = with_lora(base, 0.5, seed=12)
    chain = invert(loaded, hooks)
    results = [
        graph.core_sample(model, chain, **prompts(), seed=3)
        for model in (graph.patch(loaded, chain), with_lora(graph.patch(base, chain), 0.5, seed=12))
    ]
    assert_close(results[1], results[0])
    twice = with_lora(with_lora(both, 0.5, seed=12), 0.3)
    expected, _ = graph.invert(twice, {"samples": latent(1)}, texts()["photo +"], steps=5)
    assert_close(chain.latents, expected.latents)


def test_a_hooked_photo_beside_a_plain_one():
    base, plain = tiny.build("sd15"), chain_of()
    chain = invert(base, hook_lora(CONSTANT))
    results = []
    for order in ((chain, plain), (plain, chain)):
        model = base
        for one in order:
            model = graph.patch(model, one)
        results.append(graph.rival_sample(model, plain, **prompts(), seed=1))
    assert_close(*results)
    alone = graph.patch(base, plain)
    assert_differ(graph.rival_sample(alone, plain, **prompts(), seed=1), results[0], 0.01)


def test_the_way_back_has_the_hooks_too():
    from comfyui_rival.nodes import RivalReconstruct

    base, changed = tiny.build("sd15"), changed_for_good(0.8)
    chain = invert(base, hook_lora(CONSTANT))
    plain, _ = graph.invert(changed, {"samples": latent(1)}, texts()["photo +"], steps=5)
    ours, theirs = (
        RivalReconstruct.execute(model, one).args[0]["samples"]
        for model, one in ((base, chain), (changed, plain))
    )
    assert_close(ours, theirs, 1e-4)


def test_a_model_that_cannot_take_hooks_is_replaced_as_the_host_does():
    """Newer hosts stream weights in, and hooks need a model loaded whole."""
    base, chain = tiny.build("sd15"), invert(tiny.build("sd15"), hook_lora(CONSTANT))
    whole = tiny.build("sd15")
    base.is_dynamic, base.get_non_dynamic_delegate = (lambda: True), whole.clone
    assert graph.patch(base, chain).model is whole.model
    assert graph.patch(base, chain_of()).model is base.model


def test_comfyui_own_nodes(tmp_path, monkeypatch):
    """Create Hook LoRA, its keyframes, and Cond Set Props, on a file."""
    import comfy.utils
    import folder_paths
    from comfy_extras import nodes_hooks

    path = tmp_path / "concept.safetensors"
    comfy.utils.save_torch_file(lora(), str(path))
    monkeypatch.setattr(folder_paths, "get_full_path", lambda *_: str(path))
    hooks = run_node(
        nodes_hooks.CreateHookLora, lora_name=path.name, strength_model=1.0, strength_clip=0.0
    )[0]
    frames = None
    for start, strength in STRENGTHS.items():
        frames = run_node(nodes_hooks.CreateHookKeyframe, strength_mult=strength,
                          start_percent=start, prev_hook_kf=frames)[0]  # fmt: skip
    hooks = run_node(nodes_hooks.SetHookKeyframes, hooks=hooks, hook_kf=frames)[0]
    positive = run_node(
        nodes_hooks.ConditioningSetProperties, cond_NEW=texts()["photo +"], strength=1.0,
        set_cond_area="default", hooks=hooks,
    )[0]  # fmt: skip
    chain, _ = graph.invert(tiny.build("sd15"), {"samples": latent(1)}, positive, steps=5)
    assert torch.equal(chain.latents, invert(tiny.build("sd15"), hook_lora(STRENGTHS)).latents)
    other = invert(tiny.build("sd15"), hook_lora(CONSTANT))
    assert_differ(chain.latents[CONCAT], other.latents[CONCAT])


def test_hooks_of_other_kinds_are_refused():
    import comfy.hooks

    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({}))
    with pytest.raises(ValueError, match=r"^RIVAL Invert: positive carries hooks that are no LoRA"):
        invert(model_of("sd15"), hooks)


def test_prompts_scheduled_by_a_clip_are_refused():
    parts = [
        [prompt("sd15", 1)[0][0], {"clip_start_percent": a, "clip_end_percent": a + 0.5}]
        for a in (0.0, 0.5)
    ]
    with pytest.raises(ValueError, match=r"^RIVAL Invert: positive is .* schedule_clip off"):
        graph.invert(model_of("sd15"), {"samples": latent(1)}, parts, steps=5)
    whole = [[parts[0][0], {"clip_start_percent": 0.0, "clip_end_percent": 1.0}]]
    chain, _ = graph.invert(model_of("sd15"), {"samples": latent(1)}, whole, steps=5)
    assert chain.steps == 5
