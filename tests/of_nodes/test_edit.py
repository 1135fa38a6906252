"""RIVAL Edit in the host: its step by hand, what gives the photo back, batches, masks, prompts."""

from __future__ import annotations

import functools

import dits
import graph
import loras
import pytest
import spies
import tiny
import torch
from composing import model_of, run_node
from edit_cases import FEW, Case, by_hand
from graph import relative

pytestmark = [pytest.mark.host, pytest.mark.sampled]

KINDS = ["eps", "v", "flow", "flow with time"]


@pytest.fixture(scope="module")
def cases():
    return functools.cache(Case)


@pytest.fixture
def sd(cases):
    return cases("eps")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_published_walk(cases, kind):
    case = cases(kind)
    found = case.edit(seed=7)
    assert found.shape == case.samples.shape
    assert relative(found, by_hand(case, 7)) < 1e-5
    assert relative(found, case.samples) > 1e-2


@pytest.mark.parametrize("inputs, hand", [
    ({"path": "direct", "cfg": 2.3, "source_cfg": 1.0}, {"keep": 0.0, "cfgs": (2.3, 1.0)}),
    ({"average": 2}, {"average": 2}),
    ({"change": 1.0, "cfg": 1.0, "source_cfg": 1.0}, {"skipped": 0, "cfgs": (1.0, 1.0)}),
], ids=["direct", "average", "all steps, unguided"])  # fmt: skip
def test_settings_are_the_walks(sd, inputs, hand):
    assert relative(sd.edit(**inputs), by_hand(sd, **hand)) < 1e-5


def test_direct_is_the_published_walk_of_a_flow(cases):
    flow = cases("flow")
    assert relative(flow.edit(path="direct"), by_hand(flow, keep=0.0)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["smooth", "direct"])
def test_equal_prompts_at_equal_cfg_give_the_photo_bitwise(cases, kind, path):
    case = cases(kind)
    positive, _, negative = case.prompts
    same = case.edit(prompts=[positive, positive, negative], source_cfg=5.5, path=path)
    assert torch.equal(same, case.samples)


def test_an_lcm_model_and_another_size_are_edited():
    lcm = tiny.build("sd15_lcm", levels=1)
    prompts = [tiny.conditioning(lcm, seed) for seed in (1, 2, 3)]
    photo = {"samples": tiny.latent(2, size=12)["samples"][:, :, :6]}
    found = graph.edit(lcm, photo, *prompts, steps=3, path="direct", cfg=2.3, source_cfg=1.0,
                       change=1.0)["samples"]  # fmt: skip
    assert found.shape == photo["samples"].shape and torch.isfinite(found).all()


@pytest.mark.parametrize("cfgs, rows", [((5.5, 1.5), [2, 2]), ((5.5, 1.0), [2, 1]),
                                        ((1.0, 1.0), [1, 1])])
def test_rows_of_an_image_and_a_step(sd, cfgs, rows):
    """2 to 4, times average, on the last `change` of the steps."""
    with spies.model_rows(sd.model) as seen:
        sd.edit(cfg=cfgs[0], source_cfg=cfgs[1], average=2)
    assert [count for count, _ in seen] == rows * 2 * 3
    assert len({sigma for _, sigma in seen}) == 3


def test_few_of_the_steps_are_walked():
    import comfy.samplers
    from comfyui_rival.nodes.edit import walked

    sigmas = torch.linspace(1, 0, 29)
    assert len(walked(sigmas, 0.85)) == 25  # FlowEdit's 24 of 28 for Flux
    assert len(walked(torch.linspace(1, 0, 51), 0.66)) == 34  # and 33 of 50 for SD3
    assert torch.equal(walked(sigmas, 0.01), sigmas[-2:]) and torch.equal(walked(sigmas, 1), sigmas)
    assert "simple" in comfy.samplers.SCHEDULER_NAMES


# Batches and masks.


def test_each_item_of_a_batch_is_its_single_run(sd):
    batch = sd.whole(batch_size=3, seed=5)
    assert "batch_index" not in batch and relative(batch["samples"][2], batch["samples"][0]) > 1e-3
    for j in (0, 2):
        alone = sd.whole(latent={**sd.photo, "batch_index": [j]}, seed=5)
        assert alone["batch_index"] == [j]
        assert relative(alone["samples"][0], batch["samples"][j]) < 1e-5


def test_every_photo_of_a_batch_is_edited_by_itself(sd):
    photos = torch.cat([sd.samples, tiny.latent(9, size=8)["samples"]])
    together = sd.edit(latent={"samples": photos, "batch_index": [4, 1]})
    for i, j in enumerate((4, 1)):
        alone = sd.edit(latent={"samples": photos[i : i + 1], "batch_index": [j]})
        assert relative(together[i], alone[0]) < 1e-5


@pytest.mark.parametrize("kind", ["eps", "flow with time"])
@pytest.mark.parametrize("given", ["mask", "noise_mask", "both"])
def test_outside_the_mask_the_photo_stays_bitwise(cases, kind, given):
    case, mask = cases(kind), dits.half()
    other = torch.ones(1, 1, 64, 64)
    other[..., :32, :] = 0.0
    inputs = {} if given == "noise_mask" else {"mask": mask}
    if given != "mask":
        noise_mask = mask[:, None] if given == "noise_mask" else other
        inputs["latent"] = {**case.photo, "noise_mask": noise_mask}
    out = case.whole(**inputs)
    found, free = out["samples"], torch.zeros_like(case.samples, dtype=torch.bool)
    free[..., 4 if given == "both" else 0 :, :4] = True
    assert torch.equal(found[~free], case.samples[~free])
    assert (found[free] != case.samples[free]).float().mean() > 0.9
    assert ("noise_mask" in out) == (given != "mask")


def test_an_empty_mask_gives_the_photo_and_says_so(sd, caplog):
    assert torch.equal(sd.edit(mask=torch.zeros(1, 8, 8)), sd.samples)
    assert "RIVAL Edit: the mask is empty" in caplog.text


# Prompts as the host gives them, and other nodes.


def regional(prompts):
    """The positive with another prompt above; the source followed by another prompt."""
    from nodes import ConditioningSetArea, ConditioningSetTimestepRange

    positive, source, negative = prompts
    there = run_node(ConditioningSetArea, negative, 32, 64, 0, 0, 1.0)[0]
    early = run_node(ConditioningSetTimestepRange, source, 0.0, 0.6)[0]
    late = run_node(ConditioningSetTimestepRange, negative, 0.6, 1.0)[0]
    return [positive + there, early + late, negative]


def test_regional_prompts_and_parts_of_the_schedule_act_on_their_branch(sd):
    prompts = regional(sd.prompts)
    found = sd.edit(prompts=prompts)
    assert relative(found, by_hand(sd, prompts=prompts)) < 1e-5
    assert relative(found, sd.edit()) > 1e-3


def test_each_branch_has_the_lora_of_its_own_prompt():
    case = Case("eps")
    before, (positive, source, negative) = loras.state(case.model), case.prompts
    hooks = [loras.hook_lora(strengths, seed) for strengths, seed in
             (({0.0: 0.8, 0.6: 0.3}, 11), ({0.0: 0.5}, 12))]  # fmt: skip
    hooked = [loras.hooked(positive, hooks[0]), loras.hooked(source, hooks[1]), negative]
    found = case.edit(prompts=hooked)
    assert relative(found, by_hand(case, prompts=hooked)) < 1e-4
    assert relative(found, case.edit()) > 1e-3
    after = loras.state(case.model)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_control_acts_on_its_branch_and_is_let_go_of():
    from controls import Applied, control_net, controlled, hint

    case = Case("eps")
    case.model = model_of("sd15")  # which the control fits
    positive, source, negative = case.prompts
    applied = Applied(control_net, hint(), 0.7)
    pair = controlled({"positive": source, "negative": negative}, applied)
    prompts = [positive, pair["positive"], pair["negative"]]
    found = case.edit(prompts=prompts)
    assert relative(found, by_hand(case, prompts=prompts)) < 1e-5
    assert relative(found, case.edit()) > 1e-3
    graph.edit(case.model, case.photo, positive, prompts[1], negative, **FEW)
    assert prompts[1][0][1]["control"].cond_hint is None


def test_guidance_of_other_nodes_acts_on_both_branches(sd):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    rescaled, (positive, _, negative) = RescaleCFG().patch(sd.model, 0.7)[0], sd.prompts
    assert relative(sd.edit(model=rescaled), sd.edit()) > 1e-3
    same = sd.edit(model=rescaled, prompts=[positive, positive, negative], source_cfg=5.5)
    assert torch.equal(same, sd.samples)


def test_a_step_cache_of_another_node_is_kept_out_and_named(sd, caplog):
    """It would answer for one branch what it was asked for the other."""
    from others import step_cache

    found = sd.edit(model=step_cache(sd.model))
    assert torch.equal(found, sd.edit())
    assert "RIVAL Edit: step_cache" in caplog.text and "the edit goes without" in caplog.text


def test_a_pull_holds_the_edit_back(sd):
    held = graph.pull(sd.model, latent=sd.photo, strength=0.5, end=1.0)
    away = [relative(sd.edit(model=model), sd.samples) for model in (sd.model, held)]
    assert 0 < away[1] < 0.9 * away[0]
    whole = graph.pull(sd.model, latent=sd.photo, strength=1.0, end=1.0)
    assert torch.equal(sd.edit(model=whole), sd.samples)


# Progress, interrupts, seeds, notices, refusals.


def test_progress_and_previews_are_of_the_edit(sd, monkeypatch):
    import latent_preview

    told = []
    monkeypatch.setattr(latent_preview, "prepare_callback", lambda model, steps, *_: (
        lambda step, x0, x, total: told.append((step, total, steps, x0.clone()))))
    found = sd.edit()
    assert [(step, total, steps) for step, total, steps, _ in told] == [(i, 3, 3) for i in range(3)]
    assert relative(sd.model.model.process_latent_out(told[-1][3]), found) < 1e-6


def test_an_interrupt_ends_it_and_leaves_nothing(sd, monkeypatch):
    import comfy.model_management as management

    before = sd.edit()
    with spies.model_rows(sd.model, fail_at=4, error=management.InterruptProcessingException), \
            pytest.raises(management.InterruptProcessingException):
        sd.edit()
    management.interrupt_current_processing()
    with spies.model_rows(sd.model) as rows, \
            pytest.raises(management.InterruptProcessingException):
        sd.edit()
    assert rows == [] and torch.equal(sd.edit(), before)


def test_the_seed_decides(sd):
    assert torch.equal(sd.edit(seed=3), sd.edit(seed=3))
    assert relative(sd.edit(seed=3), sd.edit(seed=4)) > 1e-3


def test_that_nothing_will_change_is_said(sd, caplog):
    positive, _, negative = sd.prompts
    (tokens, options), = positive
    again = [positive, [[tokens.clone(), dict(options)]], negative]  # as another text node gives it
    sd.edit(source_cfg=5.5)
    sd.edit(prompts=again)
    assert "comes back" not in caplog.text
    sd.edit(prompts=again, source_cfg=5.5)
    assert "RIVAL Edit: positive and source are the same at the same cfg" in caplog.text


def refuses(said: str):
    return pytest.raises(ValueError, match=rf"^RIVAL Edit: [^:]*{said}.*\.$")


@pytest.mark.parametrize("latent, said", [
    ({"samples": torch.zeros(1, 4, 8, 8)}, r"empty \(all zeros\)"),
    ({"samples": torch.cat([torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)])}, "all zeros"),
    ({"samples": torch.ones(1, 16, 8, 8)}, "16 channels"),
    ({"samples": torch.ones(1, 4, 3, 8, 8)}, "5 dimensions"),
    ({"samples": torch.ones(1, 4, 8, 8), "batch_index": [0, 1]}, "batch_index 2 entries"),
    ({"samples": torch.ones(1, 4, 8, 8), "noise_mask": torch.full((1, 8, 8), torch.nan)}, "NaN"),
])  # fmt: skip
def test_latents_that_cannot_be_edited(sd, latent, said):
    with refuses(said):
        sd.edit(latent=latent)


@pytest.mark.parametrize("inputs, said", [
    ({"change": 0.0}, "change is 0.0"), ({"change": 1.01}, "change is 1.01"),
    ({"average": 0}, "average is 0"), ({"path": "curved"}, "path is 'curved'"),
    ({"mask": torch.ones(8, 8)}, r"the mask has the shape \[8, 8\]"),
])  # fmt: skip
def test_settings_that_cannot_be(sd, inputs, said):
    with refuses(said):
        sd.edit(**inputs)


def test_two_photos_and_a_batch_size_are_refused(sd):
    with refuses("batch_size is 2"):
        sd.edit(latent={"samples": sd.samples.repeat(2, 1, 1, 1)}, batch_size=2)


def test_models_that_cannot_edit(sd):
    inpainting = tiny.build("sd15_inpaint", levels=1)
    with refuses("for inpainting"):
        sd.edit(model=inpainting)
    chain, _ = graph.invert(sd.model, sd.photo, sd.prompts[0], steps=5)
    with refuses("RIVAL Patch Model"):
        sd.edit(model=graph.patch(sd.model, chain))


def test_what_another_node_refuses_has_that_nodes_name(sd):
    other = graph.pull(sd.model, latent=tiny.latent(2, size=6), end=1.0)
    with pytest.raises(ValueError, match=r"^RIVAL Pull: the latent is \(8, 8\) .*\(6, 6\).*\.$"):
        sd.edit(model=other)
