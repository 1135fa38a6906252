"""What transformers read of a prompt: kept with a chain, refused where it does not fit."""

from __future__ import annotations

import dataclasses
import math

import graph
import pytest
import tiny_dits
import torch
from saving import refuses

pytestmark = pytest.mark.host


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def inverted(family: str, **options):
    """(MODEL, prompt, chain of two steps); skips where the host has no such family."""
    if family not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {family}")
    model = tiny_dits.build(family)
    ((tokens, given),) = tiny_dits.conditioning(model, 1)
    prompt = [[tokens, {**given, **options}]]
    return model, prompt, graph.invert(model, tiny_dits.latent(model, 2), prompt, steps=2)[0]


def with_prompt(chain, tokens=None, **options):
    """The chain with another positive prompt; an option of None is left out."""
    ((own, given),) = chain.positive
    options = {key: value for key, value in {**given, **options}.items() if value is not None}
    return dataclasses.replace(chain, positive=[[own if tokens is None else tokens, options]])


def refuses_everywhere(model, prompt, chain, words: str) -> None:
    with refuses("RIVAL Patch Model", words):
        graph.patch(model, chain)
    with refuses("RIVAL KSampler", words):
        graph.rival_sample(model, chain, prompt, prompt)


@pytest.mark.parametrize("family", tiny_dits.FAMILIES)
def test_another_text_encoder_is_refused_by_name(family):
    from comfyui_rival.nodes import host

    model, prompt, chain = inverted(family)
    width, pooled = prompt[0][0].shape[-1], prompt[0][1].get("pooled_output")
    assert host.text_width(model) == (None if family == "krea2" else width)
    if family == "krea2":
        return
    wider = with_prompt(chain, random(1, 24, width + 8))
    refuses_everywhere(model, prompt, wider, f"{width + 8} numbers and this model reads {width}")
    if pooled is None or host.pooled_width(model) is None:
        return
    assert host.pooled_width(model) == pooled.shape[-1]
    other = with_prompt(chain, pooled_output=random(1, 7))
    refuses_everywhere(model, prompt, other, "pooled text encoding of 7 numbers")


def test_what_a_pooled_encoding_is_needed_for():
    """Flux's networks are given zeros by the host; SD3's would fail inside."""
    model, prompt, chain = inverted("flux")
    graph.patch(model, with_prompt(chain, pooled_output=None))
    model, prompt, chain = inverted("sd3")
    bare = with_prompt(chain, pooled_output=None)
    refuses_everywhere(model, prompt, bare, "pooled text encoding of 0 numbers")


def test_hidream_needs_its_llama():
    model, prompt, chain = inverted("hidream")
    for given, words in ((None, "llama encoding of 0 numbers"),
                         (random(1, 2, 24, 32), "2 layers of a llama encoding .* reads 3"),
                         (random(1, 3, 24, 40), "llama encoding of 40 numbers .* reads 32")):
        refuses_everywhere(model, prompt, with_prompt(chain, conditioning_llama3=given), words)
    graph.patch(model, with_prompt(chain, conditioning_llama3=random(1, 4, 24, 32)))


@pytest.mark.parametrize("family, options", [
    ("flux", {"guidance": 2.5, "reference_latents": [random(1, 16, 8, 6), random(1, 16, 4, 4)]}),
    ("qwen", {"reference_latents": [random(1, 16, 1, 6, 8)], "reference_latents_method": "index"}),
    ("lumina2", {"attention_mask": torch.ones(1, 24, dtype=torch.int64)}),
    ("hidream", {}),
])
def test_what_a_prompt_carries_is_in_the_file(family, options, tmp_path, monkeypatch):
    """Bitwise, and what is sampled from the file is what is sampled from the chain."""
    import folder_paths
    from comfyui_rival.nodes import RivalLoadChain, RivalSaveChain
    from comfyui_rival.rival_core.chain.chain import same

    model, prompt, chain = inverted(family, **options)
    for which in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"get_{which}_directory", lambda: str(tmp_path))
    RivalSaveChain.execute(chain, "chain")
    loaded = RivalLoadChain.execute("chain_00001_.safetensors").args[0]
    assert same(loaded.positive, chain.positive) and loaded.positive[0][1].keys() >= options.keys()
    ours, theirs = (graph.rival_sample(graph.patch(model, c), c, prompt, prompt, cfg=1.0)
                    for c in (chain, loaded))
    assert torch.equal(ours, theirs)
    if family == "qwen":  # the network does read it
        given = tiny_dits.latent(model, 2), tiny_dits.conditioning(model, 1)
        assert graph.relative(graph.invert(model, *given, steps=2)[0].end, chain.end) > 1e-4


@pytest.mark.parametrize("options, count", [
    ({"attention_mask": torch.ones(2, 24)}, "2 prompts in one entry .attention_mask"),
    ({"conditioning_llama3": random(2, 3, 24, 32)}, "2 prompts in one entry .conditioning_llama3"),
])
def test_a_batch_of_prompts_is_no_exemplar(options, count):
    model = tiny_dits.build("lumina2" if "attention_mask" in options else "hidream")
    ((tokens, given),) = tiny_dits.conditioning(model, 1)
    with refuses("RIVAL Invert", count):
        graph.invert(model, tiny_dits.latent(model), [[tokens, {**given, **options}]], steps=2)


READABLE = {
    "guidance": [3.5, 0, None], "guiding_frame_index": [None, 0],
    "reference_latents": [None, [random(1, 16, 3, 5)], [random(1, 16, 2, 2)] * 3],
    "reference_latents_method": ["index", None], "ref_latent": [random(1, 16, 3, 5), None],
    "attention_mask": [None, torch.ones(1, 7), torch.ones(1, 7).bool(), torch.ones(1, 7).long()],
    "conditioning_llama3": [None, random(1, 3, 7, 4)],
    "conditioning_byt5small": [None, random(1, 5, 4)],
    "reference_latents_text_embeds": [None, [random(1, 5, 4)]],
    "clip_vision_output": [None], "time_dim_concat": [None], "a pack's own": ["x"],
}  # fmt: skip
UNREADABLE = {
    "guidance": ["x", [3.5], random(1), 1e30, True],
    "guiding_frame_index": ["x", random(1)],
    "reference_latents": ["x", [], random(1, 16, 3, 5), [random(1, 4, 3, 5)], ["x"], [None],
                          [random(2, 16, 3, 5)], [random(1, 16, 1, 3, 5)],
                          [torch.full((1, 16, 3, 5), math.nan)]],
    "reference_latents_method": [5, ["index"]], "ref_latent": ["x", random(1, 4, 3, 5)],
    "attention_mask": ["x", torch.ones(1, 8), torch.ones(7), torch.full((1, 7), 0.5),
                       torch.full((1, 7), math.nan), torch.ones(1, 9, 9), torch.ones(1, 9, 8),
                       torch.ones(1, 7).to(torch.complex64)],
    "attention_mask_img_shape": ["x", [2], [2, 0], [2, 1e3], [2, 1 << 20], random(2)],
    "conditioning_llama3": ["x", random(3, 7, 4), torch.full((1, 3, 7, 4), math.inf)],
    "conditioning_byt5small": ["x", random(2, 5, 4)],
    "reference_latents_text_embeds": [random(1, 5, 4), ["x"]],
    "t5xxl_ids": [torch.arange(5), "x", torch.tensor([-1])],  # alone
    "clip_vision_output": ["x", random(1)], "clip_vision_outputs": [[]],
    "context_latents": [[random(1, 16, 3, 5)]], "time_dim_concat": [random(1, 16, 3, 5)],
    "time_dim_replace": [random(1)], "concat_mask_index": [0],
}  # fmt: skip


def check(options: dict, dimensions: int = 4) -> None:
    from comfyui_rival.nodes import foreign

    rules = {**foreign.READABLE, **foreign.READ_BY_DITS}
    foreign.check_options("positive", options, foreign.Beside(16, dimensions, 7), rules)


@pytest.mark.parametrize("key", READABLE)
def test_options_as_they_should_be(key):
    for value in READABLE[key]:
        check({key: value})


@pytest.mark.parametrize("key", UNREADABLE)
def test_options_that_a_transformer_would_stumble_over(key):
    from comfyui_rival.rival_core.errors import RivalError

    for value in UNREADABLE[key]:
        with pytest.raises(RivalError, match=r"^positive has .*save the chain anew") as refused:
            check({key: value})
        assert len(str(refused.value)) < 300


def test_options_that_belong_together():
    from comfyui_rival.rival_core.errors import RivalError

    mask, ids = torch.ones(1, 13, 13), torch.tensor([0, 5, 32127])
    check({"attention_mask": mask, "attention_mask_img_shape": (2, 3)})
    check({"t5xxl_ids": ids, "t5xxl_weights": torch.ones(3)})
    check({"reference_latents": [random(1, 16, 1, 3, 5)]}, dimensions=5)
    for wrong in ({"attention_mask": mask, "attention_mask_img_shape": (2, 2)},
                  {"attention_mask": mask},
                  {"attention_mask": torch.ones(1, 7), "attention_mask_img_shape": (2, 3)},
                  {"t5xxl_ids": ids, "t5xxl_weights": torch.ones(2)},
                  {"t5xxl_ids": ids + 1, "t5xxl_weights": torch.ones(3)}):
        with pytest.raises(RivalError, match=r"^positive has "):
            check(wrong)


@pytest.mark.parametrize("family", ["flux", "wan", "hidream"])
def test_a_transformers_weights_are_known_again(family):
    from comfyui_rival.nodes import checks

    model, _, chain = inverted(family)
    assert checks.same_weights(chain, model) == []
    assert checks.same_weights(chain, tiny_dits.build(family)) == []
    (said,) = checks.same_weights(chain, tiny_dits.build(family, seed=1))
    assert "another checkpoint" in said
