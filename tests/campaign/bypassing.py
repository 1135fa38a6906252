"""The same graph without this pack: core's own nodes, or nothing, in the places of its nodes."""

from __future__ import annotations

import copy


def bypassed(prompt: dict) -> dict:
    """What ComfyUI would run if this pack's nodes were exchanged for core's."""
    prompt = copy.deepcopy(prompt)
    loader = next(([name, 0] for name, node in prompt.items()
                   if node["class_type"] == "CampaignModel"), None)
    for kind, core in EXCHANGED.items():
        for name in [name for name, node in prompt.items() if node["class_type"] == kind]:
            exchange(prompt, name, core(prompt.pop(name)["inputs"], prompt, loader))
    return prompt


def exchange(prompt: dict, name: str, instead: list) -> None:
    """Others' links to a node that was taken away lead to what is there instead."""
    for output, made in enumerate(instead):
        if isinstance(made, dict):
            instead[output] = [f"{name}/{output}", 0]
            prompt[f"{name}/{output}"] = copy.deepcopy(made)
    for other in prompt.values():
        other["inputs"] = {key: instead[value[1]] if is_link(value) and value[0] == name else value
                           for key, value in other["inputs"].items()}


def is_link(value) -> bool:
    return isinstance(value, list) and len(value) == 2


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def photo_of(chain: list, prompt: dict) -> list | dict:
    """The latent that a chain was inverted from."""
    inputs = prompt.get(chain[0], {}).get("inputs", {})
    if "latent" in inputs:
        return inputs["latent"]
    return photo_of(inputs["chain"], prompt) if "chain" in inputs else EMPTY


EMPTY = node("EmptyLatentImage", width=64, height=64, batch_size=1)
MASK = node("SolidMask", value=1.0, width=64, height=64)


def patch(inputs, prompt, loader):
    return [inputs["model"], inputs.get("mask", MASK)]


def invert(inputs, prompt, loader):
    return [None, inputs["latent"]]


def sampler(inputs, prompt, loader):
    given = {key: inputs[key] for key in ("model", "positive", "negative", "seed", "cfg",
                                          "sampler_name", "denoise")}
    if given["sampler_name"] == "chain":
        given["sampler_name"] = "euler"
    latent = inputs.get("latent") or EMPTY
    return [node("KSampler", **given, steps=5, scheduler="normal", latent_image=latent)]


def reconstruction(inputs, prompt, loader):
    return [photo_of(inputs["chain"], prompt)]


def noise(inputs, prompt, loader):
    return [node("RandomNoise", noise_seed=inputs["seed"])]


def sigmas(inputs, prompt, loader):
    return [node("BasicScheduler", model=loader, scheduler="normal", steps=5, denoise=1.0)]


def nothing(inputs, prompt, loader):
    return [inputs.get("chain")]


EXCHANGED = {  # in this order: a chain's photo is looked up before its chain is taken away
    "RivalReconstruct": reconstruction, "RivalChainReport": nothing, "RivalKSampler": sampler,
    "RivalNoise": noise, "RivalSigmas": sigmas, "RivalPatchModel": patch,
    "RivalBlendedGuidance": patch, "RivalSaveChain": nothing, "RivalLoadChain": nothing,
    "RivalInvert": invert,
}
