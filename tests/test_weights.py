"""Which weights a chain was inverted with, and the notice where others sample."""

from __future__ import annotations

import graph
import pytest
import tiny
import torch
from composing import chain_of, latent, model_of, prompt, prompts
from loras import hook_lora, hooked, lora, with_lora

pytestmark = pytest.mark.host
DIGEST = "26705ab91636e9e6"  # of test_it_is_of_no_process_and_no_host, from ComfyUI 0.3.64


def fingerprint(model) -> str:
    from comfyui_rival.nodes import host

    return host.weights_fingerprint(model)


def differ(one, other) -> str:
    from comfyui_rival.nodes import host

    return host.weights_differ(fingerprint(one), fingerprint(other))


def run(model):
    """Loads the model, and its patches into the weights."""
    graph.invert(model, {"samples": latent(1)}, prompt("sd15", 1), steps=5)


def test_the_same_weights_have_one_fingerprint():
    base = tiny.build("sd15")
    assert fingerprint(base) == fingerprint(tiny.build("sd15")) == fingerprint(base.clone())
    again = with_lora(tiny.build("sd15"))
    assert fingerprint(with_lora(base)) == fingerprint(again)
    assert fingerprint(again) == fingerprint(graph.patch(again, chain_of()))


def test_it_does_not_depend_on_what_is_loaded():
    base = tiny.build("sd15")
    changed = with_lora(base)
    plain, with_it = fingerprint(base), fingerprint(changed)
    before = base.model.state_dict()["diffusion_model.out.2.weight"].clone()
    run(changed)
    assert base.backup and fingerprint(base) == plain and fingerprint(changed) == with_it
    run(base)
    assert not base.backup and fingerprint(base) == plain and fingerprint(changed) == with_it
    assert torch.equal(base.model.state_dict()["diffusion_model.out.2.weight"], before)


def test_it_is_of_no_process_and_no_host():
    import comfy.sd

    exact = {
        name: (torch.arange(value.numel()) % 17 / 16).reshape(value.shape)
        for name, value in lora().items()
    }
    model = comfy.sd.load_lora_for_models(tiny.build("sd15"), None, exact, 0.8, 0.0)[0]
    assert fingerprint(model).split(":")[0] == DIGEST


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_is_no_other_checkpoint(dtype):
    model, cast = tiny.build("sd15"), tiny.build("sd15")
    cast.model.to(dtype)
    assert fingerprint(cast) != fingerprint(model) or dtype is torch.float16
    assert differ(model, cast) == differ(cast, model) == ""


def test_another_checkpoint():
    base, tuned = tiny.build("sd15"), tiny.build("sd15")
    assert differ(base, tiny.build("sd15", seed=1)) == "another checkpoint"
    assert differ(base, tiny.build("sdxl")) == "another checkpoint"
    with torch.no_grad():  # less than training on a few photos moves them
        for weight in tuned.model.diffusion_model.parameters():
            weight *= 1.02
    assert differ(base, tuned) == "another checkpoint"


def test_loras_and_strengths():
    base = tiny.build("sd15")
    loras = {
        "none": base,
        "one": with_lora(base),
        "weaker": with_lora(base, 0.79),
        "another": with_lora(base, seed=12),
        "both": with_lora(with_lora(base), seed=12),
        "twice": with_lora(with_lora(base)),
    }
    for name, model in loras.items():
        for other_name, other in loras.items():
            assert bool(differ(model, other)) == (name != other_name), (name, other_name)
    assert differ(base, loras["one"]).startswith("other LoRAs")
    assert not differ(loras["both"], with_lora(with_lora(base, seed=12))), "their order"
    assert not differ(base, with_lora(base, 0.0))


def test_merges():
    from comfy_extras.nodes_model_merging import ModelMergeSimple
    from composing import run_node

    base, other = tiny.build("sd15"), tiny.build("sd15", seed=1)
    merged = [
        run_node(ModelMergeSimple, model1=base, model2=other, ratio=ratio)[0]
        for ratio in (0.3, 0.3, 0.6, 1.0)
    ]
    assert not differ(merged[0], merged[1]) and not differ(merged[3], base)
    assert differ(merged[0], merged[2]) and differ(merged[0], base)


def test_unknown_weights_differ_from_none():
    from comfyui_rival.nodes import host

    known = fingerprint(model_of("sd15"))
    assert not host.weights_differ("", known) and not host.weights_differ(known, "")


# --- what the nodes say --------------------------------------------------------------------------


def notices(caplog) -> list[str]:
    said = [r.getMessage() for r in caplog.records if "was inverted with" in r.getMessage()]
    caplog.clear()
    return said


def reconstruct(model, chain):
    from comfyui_rival.nodes import RivalReconstruct

    return RivalReconstruct.execute(model, chain).args[3]


def test_who_says_so(caplog):
    """Each node that would use the chain, once; and it goes on."""
    base = tiny.build("sd15")
    chain, _ = graph.invert(base, {"samples": latent(1)}, prompt("sd15", 1), steps=5)
    same, other = graph.patch(base, chain), with_lora(graph.patch(base, chain))
    graph.rival_sample(same, chain, **prompts())
    assert "was inverted with" not in reconstruct(base, chain)
    assert notices(caplog) == []
    assert torch.isfinite(graph.rival_sample(other, chain, **prompts())).all()
    said = notices(caplog)
    assert len(said) == 1 and said[0].startswith(
        "RIVAL KSampler: the chain was inverted with other LoRAs, or at other strengths, than"
    )
    graph.patch(with_lora(base), chain)
    assert [n.split(":")[0] for n in notices(caplog)] == ["RIVAL Patch Model"]
    assert "was inverted with other LoRAs" in reconstruct(with_lora(base), chain)
    assert [n.split(":")[0] for n in notices(caplog)] == ["RIVAL Reconstruct"]
    tuned = tiny.build("sd15", seed=1)
    graph.rival_sample(graph.patch(tuned, chain), chain, **prompts())
    said = notices(caplog)
    assert len(said) == 2 and all("with another checkpoint than" in n for n in said)


def test_a_lora_that_both_inverts_and_samples_is_no_news(caplog):
    model = with_lora(tiny.build("sd15"))
    chain, _ = graph.invert(model, {"samples": latent(1)}, prompt("sd15", 1), steps=5)
    graph.rival_sample(graph.patch(model, chain), chain, **prompts())
    hooks = hook_lora({0.0: 0.5})
    positive = hooked(prompt("sd15", 1), hooks)
    chain, _ = graph.invert(model, {"samples": latent(1)}, positive, steps=5)
    graph.rival_sample(graph.patch(model, chain), chain, **prompts())
    assert notices(caplog) == []
