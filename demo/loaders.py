"""The model in a ComfyUI: the files that its loaders take, and the nodes that load them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import assemble
import workflow
from errors import DemoError
from options import FLOW, Options

CHECKPOINT = "CheckpointLoaderSimple"
Files = Mapping[str, Path]  # by their folder among a ComfyUI's models


def files(options: Options) -> Files:
    """The user's checkpoint, or the demo's own model. MissingWeights if that is not there."""
    if options.checkpoint is not None:
        return {"checkpoints": options.checkpoint}
    if options.model == FLOW:
        return flow_files()
    return {"checkpoints": assemble.checkpoint()}


def flow_files() -> Files:
    return {
        "diffusion_models": assemble.flow_network(),
        "text_encoders": assemble.text_encoder(),
        "vae": assemble.FLOW_AUTOENCODER,
    }


def loading(prompt: dict, found: Files) -> dict:
    """A prompt with these files in its checkpoint loader's place, and settings that suit them."""
    prompt = copy.deepcopy(prompt)
    if "checkpoints" in found:
        prompt[only(prompt, CHECKPOINT)]["inputs"]["ckpt_name"] = found["checkpoints"].name
        return prompt
    old, new = only(prompt, CHECKPOINT), flow_loaders(found)
    outputs = ["flow-model", "flow-text", "flow-vae"]  # as a checkpoint's are ordered
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == old:
                node["inputs"][name] = [outputs[value[1]], 0]
    del prompt[old]
    for node in prompt.values():
        node["inputs"] |= suited(node)
    return prompt | new


def suited(node: dict) -> dict:
    """A node's inputs that have another value with the flow model; gates that were set stay."""
    import flow

    if node["class_type"] == "RivalInvert":
        return {"schedule": flow.SCHEDULE}
    if node["class_type"] == "RivalPatchModel" and node["inputs"]["inject_start"] == 0.0:
        return flow.GATES
    return {}


def flow_loaders(found: Files) -> dict:
    from flow import SHIFT

    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    names = {folder: path.name for folder, path in found.items()}
    return {
        "flow-network": node(
            "UNETLoader", unet_name=names["diffusion_models"], weight_dtype="default"
        ),
        "flow-model": node("ModelSamplingSD3", model=["flow-network", 0], shift=SHIFT),
        "flow-text": node("CLIPLoader", clip_name=names["text_encoders"], type="sd3"),
        "flow-vae": node("VAELoader", vae_name=names["vae"]),
    }


def only(prompt: dict, class_type: str) -> str:
    """The id of the one node of a type."""
    found = workflow.find(prompt, class_type)
    if len(found) != 1:
        raise DemoError(f"the workflow has {len(found)} {class_type} nodes, not one")
    return found[0]
