"""What cannot be on DiTs: one sentence each, the model as before. Guidance by mask can be."""

from __future__ import annotations

import dits
import graph
import pytest
import tiny_dits
import torch
from comfyui_rival.rival_core.errors import RivalError
from dits import CONCAT, FEW, half
from graph import relative

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["flux", "wan"])
def family(request):
    dits.name_of(request.param)
    return request.param


def refuses(node, *said):
    pattern = f"^{node}: " + "".join(f"(?=[^\n]*{word})" for word in said) + r"[^\n]*\.$"
    return pytest.raises(RivalError, match=pattern)


@pytest.mark.parametrize("other", ["sd3", "lumina", "qwen"])
def test_a_photo_of_another_family(family, other):
    chain = dits.chain_of(other, steps=2)
    theirs = chain.model.family
    ours = dits.chain_of(family, steps=2).model.family
    for node, use in (("RIVAL Patch Model", dits.patched), ("RIVAL KSampler", None)):
        with refuses(node, theirs, ours):
            if use is None:
                graph.rival_sample(dits.model_of(family), chain, *[dits.prompt(family, 3)] * 2)
            else:
                use(family, (chain, {}))


def test_a_photo_of_a_network_of_other_layers():
    with refuses("RIVAL Patch Model", "self-attention layers"):
        dits.patched("sd3", (dits.chain_of("sd35m", steps=2), {}))


@pytest.mark.parametrize("layers", ["decoder", "coarse", "fine"])
def test_layers_of_unets(family, layers):
    with refuses("RIVAL Patch Model", layers, "choose all"):
        dits.patched(family, (dits.chain_of(family, steps=2), {"layers": layers}))


def test_videos():
    model, prompt = dits.model_of("wan"), dits.prompt("wan", 1)
    video = {"samples": torch.randn(1, 16, 3, 8, 8)}
    with refuses("RIVAL Invert", "3 frames"):
        graph.invert(model, video, prompt, steps=2, schedule="simple")
    chain = dits.chain_of("wan", steps=2)
    with refuses("RIVAL KSampler", "3 frames"):
        dits.sample("wan", chain, latent={"samples": torch.zeros(1, 16, 3, 8, 8)})


def squares_only(func, q, k, *args, **kwargs):
    assert k.shape[-2] == q.shape[-2], "only as many keys as queries"
    return func(q, k, *args, **kwargs)


def test_a_kernel_that_cannot_read_more_keys(family):
    """Named with what it was asked for; nothing is left behind."""
    model = dits.model_of(family).clone()
    cross = family == "wan"  # whose text is another length anyway
    options = model.model_options["transformer_options"]
    kernel = squares_only if not cross else lambda func, q, k, *args, **kwargs: (
        squares_only(func, q, k, *args, **kwargs) if k.shape[-2] != 24
        else func(q, k, *args, **kwargs))
    model.model_options = {**model.model_options, "transformer_options": {
        **options, "optimized_attention_override": kernel}}
    chain, x, prompt = dits.chain_of(family), dits.noise(family), dits.prompt(family, 3)
    plain = dits.velocity(model, x, prompt)
    with refuses("RIVAL Patch Model", "attention function", "only as many keys", "remove"):
        dits.velocity(dits.patched(model, (chain, CONCAT)), x, prompt)
    assert torch.equal(dits.velocity(model, x, prompt), plain)


# --- RIVAL Blended Guidance ----------------------------------------------------------------------


def blended(model, mask=None, **inputs):
    from comfyui_rival.nodes import RivalBlendedGuidance

    widgets = {"outside": 1.0, "keep_photo": False, "prompt": "", "words": "", "threshold": 0.3,
               "blur": 1.0, "resolution": "auto", **inputs}
    return RivalBlendedGuidance.execute(model, mask=mask, **widgets).args[0]


def test_words_are_not_found_where_text_and_image_are_one(family):
    with refuses("RIVAL Blended Guidance", "cat", "cannot be found in this model's attention",
                 "give a mask"):
        blended(dits.model_of(family), words="cat", prompt="a cat",
                chain=dits.chain_of(family, steps=2), clip=object())


@pytest.fixture(scope="module", params=FEW)
def each(request):
    dits.name_of(request.param)
    return request.param


def test_guidance_under_a_mask(each):
    """Inside it is all of it, outside none, beside a photo and without."""
    x, prompts = dits.noise(each), (dits.prompt(each, 3), dits.prompt(each, 4))
    for model in (dits.model_of(each), dits.patched(each, (dits.chain_of(each), CONCAT))):
        found = dits.velocity(blended(model, half()), x, *prompts, 4.0)
        inside, outside = (dits.velocity(model, x, *prompts, cfg) for cfg in (4.0, 1.0))
        assert relative(found[..., :4], inside[..., :4]) < 1e-5
        assert relative(found[..., 4:], outside[..., 4:]) < 1e-5
        assert relative(inside, outside) > 1e-2


def test_a_photo_is_kept_outside_the_mask(each):
    chain = dits.chain_of(each, solver="anderson")
    model = blended(dits.patched(each, (chain, {})), half(), keep_photo=True, chain=chain)
    kept = dits.sample(each, chain, model=model)
    photo = tiny_dits.latent(dits.model_of(each), 100)["samples"]
    assert relative(kept[..., 4:], photo[..., 4:]) < 1e-3
    assert relative(kept[..., :4], photo[..., :4]) > 1e-2


def test_fewer_keys_of_the_photo(each):
    """exemplar_keys: every second row and column, beside the image's own tokens."""
    x, prompt, chain = dits.noise(each), dits.prompt(each, 3), dits.chain_of(each)
    every, few = (dits.velocity(dits.patched(each, (chain, {**CONCAT, "exemplar_keys": keys})),
                                x, prompt) for keys in ("all", "quarter"))
    plain = dits.velocity(dits.model_of(each), x, prompt)
    assert relative(few, every) > 1e-3 and relative(few, plain) > 1e-3
