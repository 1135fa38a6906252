"""The stand-in files are what they stand in for: the hosts' loaders take them, images change."""

from __future__ import annotations

import re

import prompts
import pytest
from serving import CHECKPOINT_XL, CONTROLNET, LORA, pictures

np = pytest.importorskip("numpy")  # both come with a host's requirements
comfy_process = pytest.importorskip("comfy_process")

pytestmark = pytest.mark.any_host

COMPLAINT = re.compile(  # what the hosts' loaders log of keys
    r"(clip|unet) (missing|unexpected)|(missing|leftover) VAE keys|missing controlnet keys"
    r"|lora key not loaded|NOT LOADED|no CLIP",
    re.IGNORECASE,
)


def run(server, prompt: dict) -> np.ndarray:
    return pictures(server, server.run(prompt)).astype(int)


def complaints(server_folder) -> list[str]:
    log = (server_folder / "comfyui.log").read_text("utf-8", "replace")
    return [line for line in log.splitlines() if COMPLAINT.search(line)]


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    """By more than rounding: 3 levels of 255 in the mean."""
    return np.abs(a - b).mean() > 3


def sdxl(text: str) -> dict:
    """One step of core's sampler."""
    prompt = prompts.core_sampler("checkpoint", steps=1)
    prompt["checkpoint"]["inputs"]["ckpt_name"] = CHECKPOINT_XL
    prompt["prompt"]["inputs"]["text"] = text
    return prompt


def with_lora(strength_model: float, strength_clip: float) -> dict:
    prompt = prompts.core_sampler("lora")
    for name in ("prompt", "empty"):
        prompt[name]["inputs"]["clip"] = ["lora", 1]
    prompt["lora"] = prompts.node(
        "LoraLoader",
        model=["checkpoint", 0],
        clip=["checkpoint", 1],
        lora_name=LORA,
        strength_model=strength_model,
        strength_clip=strength_clip,
    )
    return prompt


def with_controlnet(strength: float) -> dict:
    prompt = prompts.core_sampler("checkpoint")
    prompt["sample"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    return prompt | {
        "net": prompts.node("ControlNetLoader", control_net_name=CONTROLNET),
        "control": prompts.node(
            "ControlNetApplyAdvanced",
            positive=["prompt", 0],
            negative=["empty", 0],
            control_net=["net", 0],
            image=["small", 0],
            strength=strength,
            start_percent=0.0,
            end_percent=1.0,
        ),
    }


@pytest.mark.host
@pytest.mark.parametrize("prompt", [sdxl("a hill"), with_lora(1.0, 1.0), with_controlnet(1.0)],
                         ids=["SDXL", "LoRA", "ControlNet"])  # fmt: skip
def test_every_hosts_loaders_know_all_keys(server, server_folder, prompt):
    """What the files do then is theirs, and one host shows it."""
    prompt["sample"]["inputs"]["steps"] = 1
    assert run(server, prompt).std() > 5
    assert complaints(server_folder) == []


def test_sdxl_follows_the_prompt(server, server_folder):
    """Which has as many tokens both times: the end's place alone would change the pooled one."""
    hill, sea = (run(server, sdxl(text)) for text in ("a green hill", "a black sea"))
    assert min(hill.std(), sea.std()) > 5 and differ(hill, sea)
    assert complaints(server_folder) == []


def test_a_chain_of_sd15_is_refused_by_sdxl(server):
    prompt = prompts.variation()
    prompt["xl"] = prompts.node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT_XL)
    prompt["patch"]["inputs"]["model"] = ["xl", 0]
    with pytest.raises(comfy_process.ExecutionError, match="with SD15 and this model is SDXL"):
        server.run(prompt)


def test_both_vaes_give_their_models_the_same_latents(server):
    """Beside the families' own scales: 0.18215 for SD1.5, 0.13025 for SDXL."""
    prompt = prompts.exemplar() | {
        "xl": prompts.node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT_XL),
        "scaled": prompts.node(
            "LatentMultiply", samples=["encode", 0], multiplier=0.18215 / 0.13025
        ),
    }
    ours = run(server, prompt | prompts.images("encode"))
    prompt |= prompts.images("scaled")
    prompt["decode"]["inputs"]["vae"] = ["xl", 2]
    assert np.abs(run(server, prompt) - ours).max() <= 1


def test_the_lora_changes_the_model_and_the_text(server, server_folder):
    plain = run(server, prompts.core_sampler("checkpoint"))
    for strengths in ((1.0, 0.0), (0.0, 1.0)):
        changed = run(server, with_lora(*strengths))
        assert changed.std() > 5 and differ(changed, plain), strengths
    assert complaints(server_folder) == []


def test_the_controlnet_changes_the_image(server, server_folder):
    plain = run(server, prompts.core_sampler("checkpoint"))
    changed = run(server, with_controlnet(1.0))
    assert changed.std() > 5 and differ(changed, plain)
    assert complaints(server_folder) == []
