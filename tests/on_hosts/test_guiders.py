"""Every guider: which of the photo's rows its prompts read, and what Blended Guidance blends."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import comfy.samplers
import graph
import others
import pytest
import torch
from composing import chain_of, guider_of, latent, model_of, prompt, run_node

pytestmark = pytest.mark.host
CFG, SIGMA = 5.0, 2.0


def positive():
    return prompt("sd15", 3)


def negative():
    return prompt("sd15", 4)


def predicted(guider):
    """One guided prediction, which is what a single step down to 0 ends at."""
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([SIGMA, 0.0])
    return guider.sample(SIGMA * latent(7), torch.zeros(1, 4, 8, 8), sampler, sigmas, seed=0)


def perp_neg(model, neg_scale=0.0):
    from comfy_extras.nodes_perpneg import PerpNegGuider

    conds = positive(), prompt("sd15", 6), negative()  # the last is the empty prompt
    return run_node(PerpNegGuider, model, *conds, CFG, neg_scale)[0]


def dual(model, style="regular", cfg_conds=CFG, cfg_negative=1.0, middle=None):
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    conds = positive(), middle or negative(), prompt("sd15", 6)
    return run_node(DualCFGGuider, model, *conds, cfg_conds, cfg_negative, style)[0]


def basic(model):
    from comfy_extras.nodes_custom_sampler import BasicGuider

    return run_node(BasicGuider, model, positive())[0]


class OwnNames(comfy.samplers.CFGGuider):
    """Core's guidance with prompts under names that say nothing."""

    names = ("first", "second")

    def set_prompts(self, cond, uncond, **marks):
        import node_helpers

        uncond = node_helpers.conditioning_set_values(uncond, marks)
        self.inner_set_conds(dict(zip(self.names, (cond, uncond))))
        return self

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        cond, uncond = (self.conds[name] for name in self.names)
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, uncond, cond, CFG, model_options, seed)


class OwnSum(OwnNames):
    """Its own arithmetic, on calls of one prompt each."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        cond, uncond = (
            comfy.samplers.calc_cond_batch(
                self.inner_model, [self.conds[name]], x, timestep, model_options)[0]
            for name in self.names
        )
        return uncond + CFG * (cond - uncond)


class UncondNamed(OwnSum):
    names = ("prompt", "uncond_prompt")


CFG_OTHERWISE = {
    "perp-neg without its negative": perp_neg,
    "the old perp-neg node": lambda model: guider_of(
        old_perp_neg(model), positive(), prompt("sd15", 6), CFG),
    "dual, whose second is the unconditional": dual,
    "a pair under other names": lambda model: OwnNames(model).set_prompts(positive(), negative()),
    "marked as negative": lambda model: OwnSum(model).set_prompts(
        positive(), negative(), prompt_type="negative"),
    "called unconditional": lambda model: UncondNamed(model).set_prompts(positive(), negative()),
}  # fmt: skip


def old_perp_neg(model):
    from comfy_extras.nodes_perpneg import PerpNeg

    return run_node(PerpNeg, model, prompt("sd15", 2), 0.0)[0]


@pytest.mark.parametrize("name", CFG_OTHERWISE)
def test_what_comes_to_plain_guidance_is_plain_guidance_beside_a_photo_too(name):
    """With an exemplar row for each half: the unconditional rows read the unconditional one."""
    chain, uncond = chain_of(negative=True), negative()
    if name == "the old perp-neg node":  # known by its text, which is the photo's own negative
        uncond = prompt("sd15", 2)
    for model in (model_of("sd15"), graph.patch(model_of("sd15"), chain)):
        own, plain = CFG_OTHERWISE[name](model), guider_of(model, positive(), uncond, CFG)
        assert graph.relative(predicted(own), predicted(plain)) < 1e-5
    swapped = guider_of(model, uncond, positive(), 1 - CFG)  # the same sum, the roles exchanged
    assert graph.relative(predicted(swapped), predicted(plain)) > 1e-2


def test_a_prompt_that_nothing_tells_of_reads_the_positive_row_and_is_named(caplog):
    chain = chain_of(negative=True)
    guider = OwnSum(graph.patch(model_of("sd15"), chain)).set_prompts(positive(), negative())
    with caplog.at_level(logging.WARNING):
        found = predicted(guider)
    told = [m for m in caplog.messages if "nothing tells whether" in m]
    assert len(told) == 2 and "'first'" in told[0] and "'second'" in told[1]
    assert torch.isfinite(found).all()


# --- blended guidance ----------------------------------------------------------------------------


def blended(model, outside=1.0, value=0.0):
    from comfyui_rival.nodes import RivalBlendedGuidance

    widgets = {"keep_photo": False, "prompt": "", "words": "", "threshold": 0.3, "blur": 1.0,
               "resolution": "auto"}  # fmt: skip
    mask = torch.full((1, 64, 64), value)
    return RivalBlendedGuidance.execute(model, outside, mask=mask, **widgets).args[0]


GUIDERS = {
    "cfg": lambda model: guider_of(model, positive(), negative(), CFG),
    "dual": lambda model: dual(model, cfg_negative=4.0, middle=prompt("sd15", 5)),
    "nested": lambda model: dual(model, "nested", cfg_negative=4.0, middle=prompt("sd15", 5)),
    "perp-neg": lambda model: perp_neg(model, 1.0),
    "own names": CFG_OTHERWISE["a pair under other names"],
    "own sum": CFG_OTHERWISE["called unconditional"],
}


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("name", GUIDERS)
def test_outside_the_mask_no_guidance_of_any_guider_is_left(name, steered):
    model, guider = model_of("sd15"), GUIDERS[name]
    model = graph.patch(model, chain_of()) if steered else model
    full, cond = predicted(guider(model)), predicted(basic(model))
    assert graph.relative(full, cond) > 0.1
    assert graph.relative(predicted(guider(blended(model))), cond) < 1e-5
    assert torch.equal(predicted(guider(blended(model, value=1.0))), full)


AWAY_FROM = {"cfg": 4, "dual": 6, "nested": 6, "perp-neg": 4, "own names": 4, "own sum": 4}


@pytest.mark.parametrize("name", GUIDERS)
def test_outside_the_mask_guidance_leads_away_from_what_is_unconditional(name):
    model, outside = model_of("sd15"), 2.5
    low = predicted(guider_of(model, positive(), prompt("sd15", AWAY_FROM[name]), outside))
    assert graph.relative(predicted(GUIDERS[name](blended(model, outside))), low) < 1e-5


def test_guidance_of_other_nodes_is_part_of_the_sum():
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    perturbed = run_node(PerturbedAttentionGuidance, model_of("sd15"), 3.0)[0]
    cond = predicted(basic(model_of("sd15")))
    after = run_node(PerturbedAttentionGuidance, blended(model_of("sd15")), 3.0)[0]
    for model in (blended(perturbed), after):
        assert graph.relative(predicted(GUIDERS["cfg"](model)), cond) < 1e-5


@pytest.mark.parametrize("outside", [0.0, 1.0, 2.0, 5.0])
def test_without_an_unconditional_prediction_it_does_nothing_and_says_so(outside, caplog):
    guided = blended(model_of("sd15"), outside)
    assert torch.equal(predicted(basic(guided)), predicted(basic(model_of("sd15"))))
    said = "RIVAL Blended Guidance: there is no unconditional"
    assert sum(said in message for message in caplog.messages) == 1


def test_an_inversion_without_a_negative_is_not_scaled():
    chain = graph.invert(blended(model_of("sd15"), 2.0), {"samples": latent(100)},
                         prompt("sd15", 1), steps=5)[0]
    assert torch.equal(chain.latents, chain_of().latents)


def test_two_of_them_act_one_after_the_other():
    model, cond = model_of("sd15"), predicted(basic(model_of("sd15")))
    twice = predicted(GUIDERS["cfg"](blended(blended(model, value=0.5), value=0.5)))
    full = predicted(GUIDERS["cfg"](model))
    torch.testing.assert_close(twice, cond + 0.25 * (full - cond), rtol=1e-4, atol=1e-5)


def test_in_context_windows_the_whole_is_blended():
    """Each window's call tells a part only; what they come to is blended."""
    windowed = others.windows(model_of("sd15"))
    cond = predicted(basic(windowed))
    assert graph.relative(cond, predicted(basic(model_of("sd15")))) > 1e-3
    assert graph.relative(predicted(GUIDERS["cfg"](blended(windowed))), cond) < 1e-5


@pytest.mark.parametrize("shape", [(1, 4, 2, 8, 8), (1, 4, 64)])
def test_a_mask_on_latents_of_no_image_is_refused_in_a_sentence(shape):
    """Of videos, and of several streams in one: models that the node takes without a chain."""
    from comfyui_rival.nodes.steering.run import Alignment
    from comfyui_rival.rival_core.sampling.guidance import Blend

    x = torch.zeros(shape)
    alignment = Alignment(blends=[Blend(torch.ones(1, 8, 8), 1.0)])
    run = SimpleNamespace(prediction=SimpleNamespace(unguided=lambda: (x, x)))
    with pytest.raises(ValueError, match=r"^RIVAL Blended Guidance: the latent has .*\.$"):
        alignment.blended(run, x)
    seen = alignment.prepare_sampling(lambda model, shape: shape, None, shape)
    assert list(seen) == list(shape), "and takes no memory that plain sampling does not"


# --- the photo itself ----------------------------------------------------------------------------


def sag(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return run_node(SelfAttentionGuidance, model, 0.5, 2.0)[0]


def pag(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return run_node(PerturbedAttentionGuidance, model, 3.0)[0]


def rescaled(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return run_node(RescaleCFG, model, 0.7)[0]


def own_batch(model):
    """A node that takes over the guider's calls."""
    model = model.clone()
    model.model_options["sampler_calc_cond_batch_function"] = lambda args: [args["input"]] * 2
    return model


@pytest.mark.parametrize("node", [sag, pag, rescaled, own_batch])
def test_the_guidance_of_other_nodes_is_no_part_of_an_unguided_inversion(node, caplog):
    """Nor of its way back; some of it would not run without an unconditional prediction."""
    from comfyui_rival.nodes import RivalReconstruct

    model = node(model_of("sd15"))
    chain = graph.invert(model, {"samples": latent(100)}, prompt("sd15", 1), steps=5)[0]
    assert torch.equal(chain.latents, chain_of().latents)
    back = RivalReconstruct.execute(model, chain).args[0]["samples"]
    assert torch.equal(back, RivalReconstruct.execute(model_of("sd15"), chain).args[0]["samples"])
    said = "guides samplers only" if node is not own_batch else "so the photo goes without"
    assert sum(said in message for message in caplog.messages) == 2


def test_a_guided_inversion_is_guided_by_other_nodes_too():
    asked = {"steps": 5, "cfg": 2.0, "negative": negative()}
    photo, caption = {"samples": latent(100)}, prompt("sd15", 1)
    plain = graph.invert(model_of("sd15"), photo, caption, **asked)[0]
    other = graph.invert(rescaled(model_of("sd15")), photo, caption, **asked)[0]
    assert graph.relative(other.latents, plain.latents) > 1e-4
