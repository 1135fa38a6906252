"""Blended guidance: its arithmetic, the photo kept outside the mask, and masks from words."""

from __future__ import annotations

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.sampling import guidance
from comfyui_rival.rival_core.steering.masks import resize_mask

pytestmark = pytest.mark.host

WORDS = {"a": 5, "red": 6, "circle": 7, "dog": 8}
BEGIN, END, LENGTH = 1, 2, 77


class Clip:
    """A text encoder whose tokens are words; it encodes every text alike."""

    def __init__(self, conditioning):
        self.conditioning = conditioning

    def tokenize(self, text):
        ids = [BEGIN, *(WORDS[word] for word in text.split()), END]
        return {"l": [[(token, 1.0) for token in ids + [END] * (LENGTH - len(ids))]]}

    def encode_from_tokens_scheduled(self, tokens):
        return self.conditioning


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15")
    prompts = [tiny.conditioning(model, i) for i in (1, 2)]
    photo = tiny.latent(2, size=8)
    chain, _ = graph.invert(model, photo, prompts[0], steps=5, solver="anderson")
    return {"model": model, "prompts": prompts, "photo": photo, "chain": chain}


def guide(model, **inputs):
    """(MODEL, MASK) of RIVAL Blended Guidance."""
    from comfyui_rival.nodes import RivalBlendedGuidance

    widgets = {"outside": 1.0, "keep_photo": False, "prompt": "", "words": "", "threshold": 0.3,
               "blur": 1.0, "resolution": "auto"}
    return RivalBlendedGuidance.execute(model, **{**widgets, **inputs}).args


def sample(setup, model, **inputs):
    return graph.rival_sample(model, setup["chain"], *setup["prompts"], start="inverted", **inputs)


def whole(value: float) -> torch.Tensor:
    return torch.full((1, 64, 64), value)


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    return mask


# The scale.


@pytest.mark.parametrize("patched", [False, True])
def test_a_full_mask_is_plain_guidance_bitwise(setup, patched):
    model = graph.patch(setup["model"], setup["chain"]) if patched else setup["model"]
    guided, _ = guide(model, mask=whole(1.0))
    assert torch.equal(sample(setup, guided, cfg=5.0), sample(setup, model, cfg=5.0))


@pytest.mark.parametrize("outside", [1.0, 2.5])
def test_an_empty_mask_is_the_low_scale(setup, outside):
    guided, _ = guide(setup["model"], mask=whole(0.0), outside=outside)
    low = sample(setup, setup["model"], cfg=outside)
    found = sample(setup, guided, cfg=7.0)
    if outside == 1.0:  # at a cfg of 1 the host runs one row, and rounds otherwise than with two
        assert graph.relative(found, low) < 1e-4
    else:
        assert torch.equal(found, low)


def test_a_low_scale_acts_where_the_sampler_has_no_guidance(setup):
    guided, _ = guide(setup["model"], mask=whole(0.0), outside=3.0)
    assert torch.equal(sample(setup, guided, cfg=1.0), sample(setup, setup["model"], cfg=3.0))


def test_a_half_mask_guides_its_half_only():
    generator = torch.Generator().manual_seed(0)
    denoised, cond, uncond = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    mask = resize_mask(left_half(), denoised)
    mixed = guidance.blended(denoised, cond, uncond, 1.5, mask)
    low = uncond + (cond - uncond) * 1.5
    assert torch.equal(mixed[..., :3], denoised[..., :3])
    assert torch.equal(mixed[..., 5:], low[..., 5:])


def test_a_soft_mask_scales_guidance_linearly():
    """omega = (omega_high - 1) mask + 1, as the method's figure has it."""
    cond, uncond = torch.randn(2, 1, 4, 8, 8).unbind()
    mixed = guidance.blended(uncond + 7 * (cond - uncond), cond, uncond, 1.0,
                             torch.full((1, 1, 8, 8), 0.25))
    torch.testing.assert_close(mixed, uncond + (0.25 * 6 + 1) * (cond - uncond))


def test_other_guidance_nodes_and_core_samplers_compose(setup):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    rescaled = RescaleCFG().patch(setup["model"], 0.7)[0]
    guided, _ = guide(rescaled, mask=whole(1.0))
    inputs = setup["chain"], *setup["prompts"]
    expected = graph.core_sample(rescaled, *inputs, cfg=7.0, sampler="dpmpp_2m")
    assert torch.equal(graph.core_sample(guided, *inputs, cfg=7.0, sampler="dpmpp_2m"), expected)
    assert not torch.equal(expected, graph.core_sample(setup["model"], *inputs, cfg=7.0,
                                                       sampler="dpmpp_2m"))


def test_the_model_before_the_node_stays_untouched(setup):
    before = sample(setup, setup["model"])
    guide(setup["model"], mask=left_half(), keep_photo=True, chain=setup["chain"])
    assert torch.equal(sample(setup, setup["model"]), before)


# The photo kept.


@pytest.mark.parametrize("patched", ["before", "after", "not"])
@pytest.mark.parametrize("start", ["inverted", "shuffle"])
def test_outside_the_mask_the_kept_photo_is_the_exemplar(setup, patched, start):
    model, chain = setup["model"], setup["chain"]
    model = graph.patch(model, chain) if patched == "before" else model
    model, _ = guide(model, mask=left_half(), keep_photo=True, chain=chain)
    model = graph.patch(model, chain) if patched == "after" else model
    result = graph.rival_sample(model, chain, *setup["prompts"], start=start, cfg=7.0)
    photo = setup["photo"]["samples"]
    torch.testing.assert_close(result[..., 5:], photo[..., 5:], rtol=0, atol=2e-5)
    assert graph.relative(result[..., :3], photo[..., :3]) > 0.1


def test_keeping_and_patching_commute(setup):
    model, chain = setup["model"], setup["chain"]
    kept = {"mask": left_half(), "keep_photo": True, "chain": chain}
    before = sample(setup, guide(graph.patch(model, chain), **kept)[0])
    after = sample(setup, graph.patch(guide(model, **kept)[0], chain))
    assert torch.equal(before, after)
    assert graph.relative(before, sample(setup, guide(model, **kept)[0])) > 0.01


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "dpmpp_sde"])
def test_other_samplers_end_at_the_kept_photo_too(setup, sampler):
    model, _ = guide(setup["model"], mask=left_half(), keep_photo=True, chain=setup["chain"])
    result = sample(setup, model, sampler_name=sampler)
    photo = setup["photo"]["samples"]
    assert graph.relative(result[..., 5:], photo[..., 5:]) < 0.03


def test_the_model_sees_the_chain_outside_the_mask(setup):
    keep = guidance.Keep(setup["chain"], left_half())
    x = torch.randn(2, 4, 8, 8)
    for sigma, latent in zip(setup["chain"].sigmas.tolist(), setup["chain"].latents):
        seen = keep.enter(x, sigma)
        assert torch.equal(seen[..., :3], x[..., :3])
        assert torch.equal(seen[0, ..., 5:], latent[..., 5:])


def test_a_kept_photo_of_another_size_is_refused(setup):
    model, _ = guide(setup["model"], mask=left_half(), keep_photo=True, chain=setup["chain"])
    with pytest.raises(ValueError, match=r"^RIVAL Blended Guidance: .*\(6, 8\).*\.$"):
        graph.rival_sample(model, setup["chain"], *setup["prompts"],
                           latent={"samples": torch.zeros(1, 4, 6, 8)})


def test_a_model_that_keeps_a_photo_cannot_invert(setup):
    model, _ = guide(setup["model"], mask=left_half(), keep_photo=True, chain=setup["chain"])
    with pytest.raises(ValueError, match=r"^RIVAL Invert: .*Blended Guidance.*\.$"):
        graph.invert(model, setup["photo"], setup["prompts"][0], steps=5)


# Masks from words.


def test_attention_to_words_is_the_softmax_of_their_keys():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 24, generator=generator) for n in (9, 7))
    found = guidance.attention_to(q, k, 3, [1, 4])
    for i in range(2):
        heads = [torch.softmax(q[i, :, h] @ k[i, :, h].T / 8**0.5, dim=1)[:, [1, 4]].sum(1)
                 for h in (slice(0, 8), slice(8, 16), slice(16, 24))]
        torch.testing.assert_close(found[i], sum(heads) / 3)
    everything = guidance.attention_to(q, k, 3, range(7))
    torch.testing.assert_close(everything, torch.ones(2, 9))


def test_words_are_found_as_whole_sequences():
    text = [1, 5, 6, 7, 6, 9, 2]
    assert guidance.word_positions(text, [[6]]) == [2, 4]
    assert guidance.word_positions(text, [[6, 9], [5]]) == [1, 4, 5]
    assert guidance.word_positions(text, [[7, 9]]) == []


def test_a_mask_is_the_mean_map_over_its_maximum():
    low, high = torch.zeros(1, 16), torch.zeros(1, 16)
    low[0, 5], high[0, 5], high[0, 10] = 0.2, 0.6, 0.2
    mask = guidance.attention_mask([low, high], (4, 4), "full", 0.0, 0.0)
    assert mask[0, 1, 1] == 1.0 and mask[0, 2, 2] == pytest.approx(0.25) and mask[0, 0, 0] == 0
    hard = guidance.attention_mask([low, high], (4, 4), "full", 0.3, 0.0)
    assert hard[0, :3, :3].all() and hard.sum() == 9  # grown by a token each way
    soft = guidance.attention_mask([low, high], (4, 4), "full", 0.3, 1.0)
    assert 0 < soft[0, 3, 3] < soft[0, 2, 2] < soft[0, 1, 1] < 1


def test_the_chosen_resolution_is_used():
    fine, coarse = torch.rand(1, 256), torch.zeros(1, 16)
    coarse[0, 0] = 1.0
    for resolution in ("auto", "quarter"):
        mask = guidance.attention_mask([fine, coarse], (16, 16), resolution, 0.5, 0.0)
        assert mask[0, :4, :4].all() and not mask[0, 10:, 10:].any()
    fine_only = guidance.attention_mask([fine, coarse], (16, 16), "full", 0.0, 0.0)
    torch.testing.assert_close(fine_only[0], (fine / fine.max()).view(16, 16))
    with pytest.raises(RivalError, match=r"'eighth': choose full or quarter, or auto"):
        guidance.attention_mask([fine, coarse], (16, 16), "eighth", 0.0, 0.0)


def test_blur_keeps_the_whole_and_softens_edges():
    flat = torch.full((1, 1, 9, 9), 0.4)
    torch.testing.assert_close(guidance.gaussian_blur(flat, 2.0), flat)
    dot = torch.zeros(1, 1, 15, 15)
    dot[..., 7, 7] = 1
    blurred = guidance.gaussian_blur(dot, 1.5)
    assert blurred.sum() == pytest.approx(1.0, abs=1e-5)
    assert blurred[0, 0, 7, 8] == pytest.approx(float(blurred[0, 0, 8, 7]))


def test_words_make_a_mask_that_can_be_looked_at(setup):
    clip = Clip(setup["prompts"][0])
    asked = {"chain": setup["chain"], "clip": clip, "prompt": "a red circle", "words": "circle"}
    with spies.model_rows(setup["model"]) as rows:
        guided, mask = guide(setup["model"], threshold=0.0, blur=0.0, **asked)
    assert [n for n, _ in rows] == [1] * 5, "one unguided call for each latent of a short chain"
    assert mask.shape == (1, 64, 64) and 0.9 < mask.max() <= 1 and mask.min() >= 0
    assert mask.std() > 0
    _, other = guide(setup["model"], threshold=0.0, blur=0.0, **{**asked, "words": "red"})
    assert not torch.equal(mask, other)
    assert torch.isfinite(sample(setup, guided)).all()


def test_a_mask_and_words_multiply(setup):
    asked = {"chain": setup["chain"], "clip": Clip(setup["prompts"][0]), "prompt": "a circle",
             "words": "circle", "threshold": 0.0}
    _, words = guide(setup["model"], **asked)
    _, both = guide(setup["model"], mask=left_half(), **asked)
    torch.testing.assert_close(both, words * left_half())


def test_another_text_than_the_chains_is_said(setup, caplog):
    clip = Clip(setup["prompts"][1])
    guide(setup["model"], chain=setup["chain"], clip=clip, prompt="a dog", words="dog")
    assert "not the text that the chain was inverted with" in caplog.text


@pytest.mark.parametrize("inputs, said", [
    ({}, "neither a mask nor a word"),
    ({"words": " , "}, "neither a mask nor a word"),
    ({"words": "dog"}, r"\['dog'\] need the chain and the clip"),
    ({"mask": torch.ones(1, 8, 8), "keep_photo": True}, "connect its chain"),
    ({"mask": torch.zeros(1, 0, 8)}, r"\[1, 0, 8\]"),
    ({"mask": torch.ones(8, 8)}, r"\[8, 8\]"),
    ({"mask": torch.full((1, 8, 8), float("nan"))}, "NaN"),
    ({"mask": torch.ones(1, 8, 8), "outside": float("inf")}, "outside is inf"),
])
def test_bad_input(setup, inputs, said):
    with pytest.raises(ValueError, match=rf"^RIVAL Blended Guidance: .*{said}.*\.$"):
        guide(setup["model"], **inputs)


def test_a_word_that_the_prompt_lacks(setup):
    with pytest.raises(ValueError, match=r"^RIVAL Blended Guidance: .*'a circle'.*'dog'.*\.$"):
        guide(setup["model"], chain=setup["chain"], clip=Clip(setup["prompts"][0]),
              prompt="a circle", words="dog")


def test_a_prompt_with_a_textual_inversion_is_searched_as_well(setup):
    from comfyui_rival.nodes.guidance import find_words

    class WithVectors(Clip):
        def tokenize(self, text):
            chunk = super().tokenize(text)["l"][0]
            vector = [(torch.randn(768), 1.0)] if " " in text else []
            return {"l": [[chunk[0], *vector, *chunk[1 : len(chunk) - len(vector)]]]}

    clip = WithVectors(setup["prompts"][0])
    assert find_words(clip, "a red circle", ["circle"]) == [4]


def test_masks_of_another_count_are_refused(setup):
    model, _ = guide(setup["model"], mask=torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match=r"^RIVAL Blended Guidance: .*batch of 3.*\.$"):
        sample(setup, model, batch_size=2)
