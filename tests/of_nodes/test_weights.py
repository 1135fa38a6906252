"""Which weights a chain was inverted with, and the notice where others sample."""

from __future__ import annotations

import graph
import pytest
import tiny
import torch
from composing import chain_of, latent, model_of, prompt, prompts
from loras import hook_lora, hooked, lora, with_lora

pytestmark = [pytest.mark.host, pytest.mark.sampled]
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


def state(model) -> dict[str, torch.Tensor]:
    """The UNet as a checkpoint's content."""
    found = model.model.diffusion_model.state_dict()
    return {f"{UNET}{name}": weight.clone() for name, weight in found.items()}


def scaled(model) -> dict[str, torch.Tensor]:
    """The same as the "fp8_scaled" files that are shared: linear layers over a scale of each."""
    content = state(model)
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.abs().max() / torch.finfo(E4M3).max
            content[f"{UNET}{name}.weight"] = (module.weight / scale).to(E4M3)
            content[f"{UNET}{name}.scale_weight"] = scale
    return {**content, f"{UNET}scaled_fp8": torch.zeros(0, dtype=E4M3)}


def loaded(content: dict[str, torch.Tensor], dtype=torch.bfloat16):
    """What the host makes of a checkpoint's content."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    unet = tiny._unet_config((1, 1))
    config = tiny._model_config(comfy.supported_models.SD15, unet, num_heads=4,
                                num_head_channels=-1)  # fmt: skip
    config.set_inference_dtype(dtype, torch.float32)
    if hasattr(comfy.utils, "convert_old_quants"):
        content, _ = comfy.utils.convert_old_quants(content, UNET)
        config.quant_config = comfy.utils.detect_layer_quantization(content, UNET)
    elif f"{UNET}scaled_fp8" in content:
        config.scaled_fp8 = E4M3
    model = config.get_model(content, UNET)
    model.load_model_weights(content, UNET)
    model.eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


UNET, E4M3 = "model.diffusion_model.", torch.float8_e4m3fn
STORED = {
    "bfloat16": lambda model: loaded(state(model)),
    "float16": lambda model: loaded(state(model), torch.float16),
    "e4m3": lambda model: loaded(state(model), E4M3),
    "e5m2": lambda model: loaded(state(model), torch.float8_e5m2),
    "scaled e4m3": lambda model: loaded(scaled(model)),
}


@pytest.fixture(scope="module")
def casts():
    """The fingerprint of one checkpoint, of another, and of a fine-tune of the first, each way."""
    models = {"own": tiny.build("sd15"), "other": tiny.build("sd15", seed=1)}
    models["tuned"] = tiny.build("sd15")
    with torch.no_grad():
        for weight in models["tuned"].model.diffusion_model.parameters():
            weight *= 1.04
    every = {"float32": lambda model: model, **STORED}
    return {name: {kind: fingerprint(cast(model)) for kind, cast in every.items()}
            for name, model in models.items()}  # fmt: skip


def test_however_it_is_stored_it_is_the_same_checkpoint(casts):
    """In both directions: whichever it was inverted with, and whichever samples."""
    from comfyui_rival.nodes import host

    for kind, one in casts["own"].items():
        assert host.is_fingerprint(one)
        for other_kind, other in casts["own"].items():
            assert not host.weights_differ(one, other), (kind, other_kind)


def test_another_is_told_from_it_however_they_are_stored(casts):
    from comfyui_rival.nodes import host

    for kind, one in casts["own"].items():
        for other_kind, other in casts["other"].items():
            said = host.weights_differ(one, other)
            assert said == "another checkpoint", (kind, other_kind)
    for kind in ("float32", "float16", "bfloat16"):
        for other_kind in ("float32", "float16", "bfloat16"):
            assert host.weights_differ(casts["own"][kind], casts["tuned"][other_kind])


def test_weights_that_cannot_be_read_are_left_out(casts):
    """Those of other packs' own classes, in no known scale."""
    from comfyui_rival.nodes import host

    class Packed(torch.Tensor):
        pass

    for seed in (0, 1):
        model = tiny.build("sd15", seed)
        for module in model.model.diffusion_model.modules():
            if isinstance(module, torch.nn.Linear):
                packed = torch.zeros_like(module.weight, dtype=torch.uint8).as_subclass(Packed)
                del module.weight
                module.register_buffer("weight", packed)
        said = host.weights_differ(fingerprint(model), casts["own"]["e4m3"])
        assert said == ("another checkpoint" if seed else "")


def test_a_model_in_scaled_float8_inverts_and_samples(caplog):
    model, base = STORED["scaled e4m3"](tiny.build("sd15")), tiny.build("sd15")
    chain, _ = graph.invert(model, {"samples": latent(1)}, prompt("sd15", 1), steps=5)
    for sampler in (model, base):
        graph.rival_sample(graph.patch(sampler, chain), chain, **prompts())
    assert notices(caplog) == []


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


@pytest.mark.any_host
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


@pytest.mark.any_host
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


@pytest.mark.any_host
def test_a_lora_that_both_inverts_and_samples_is_no_news(caplog):
    model = with_lora(tiny.build("sd15"))
    chain, _ = graph.invert(model, {"samples": latent(1)}, prompt("sd15", 1), steps=5)
    graph.rival_sample(graph.patch(model, chain), chain, **prompts())
    hooks = hook_lora({0.0: 0.5})
    positive = hooked(prompt("sd15", 1), hooks)
    chain, _ = graph.invert(model, {"samples": latent(1)}, positive, steps=5)
    graph.rival_sample(graph.patch(model, chain), chain, **prompts())
    assert notices(caplog) == []
