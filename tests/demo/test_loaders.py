"""The flow model in a checkpoint's place: which nodes load it, and who is given what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path += [str(DEMO), str(DEMO / "model")]

import flow
import loaders

FILES = {"diffusion_models": Path("a.safetensors"), "text_encoders": Path("b.safetensors"),
         "vae": Path("c.safetensors")}
PROMPT = {
    "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "other.safetensors"}},
    "9": {"class_type": "RivalInvert", "inputs": {"model": ["2", 0], "steps": 20}},
    "7": {"class_type": "RivalPatchModel", "inputs": {"inject_start": 0.0, "replace_end": 0.4}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": "2"}},
    "8": {"class_type": "VAEEncode", "inputs": {"vae": ["2", 2], "pixels": ["3", 0]}},
}


@pytest.fixture(scope="module")
def loaded() -> dict:
    return loaders.loading(PROMPT, FILES)


def sources(prompt: dict, node: str, given: str) -> list[str]:
    """The types of the nodes behind an input, the nearest first."""
    found, link = [], prompt[node]["inputs"][given]
    while link is not None:
        found.append(prompt[link[0]]["class_type"])
        link = prompt[link[0]]["inputs"].get("model")
    return found


def test_each_part_goes_where_the_checkpoints_went(loaded):
    assert sources(loaded, "9", "model") == ["ModelSamplingSD3", "UNETLoader"]
    assert sources(loaded, "5", "clip") == ["CLIPLoader"]
    assert sources(loaded, "8", "vae") == ["VAELoader"]
    assert loaded["9"]["inputs"]["steps"] == 20 and loaded["5"]["inputs"]["text"] == "2"
    assert loaded["8"]["inputs"]["pixels"] == ["3", 0] and "2" not in loaded and "2" in PROMPT
    assert loaded["flow-model"]["inputs"]["shift"] == flow.SHIFT


def test_the_packs_nodes_are_set_as_suits_the_model(loaded):
    assert loaded["9"]["inputs"]["schedule"] == "beta" and loaded["9"]["inputs"]["steps"] == 20
    assert loaded["7"]["inputs"] == {"inject_start": 0.5, "replace_end": 0.4}
    assert "schedule" not in PROMPT["9"]["inputs"]
    edit = {"7": {"class_type": "RivalPatchModel", "inputs": {"inject_start": 0.1}}}
    assert loaders.loading(PROMPT | edit, FILES)["7"] == edit["7"]


def test_a_checkpoint_keeps_its_loader():
    found = loaders.loading(PROMPT, {"checkpoints": Path("mine.safetensors")})
    assert found["2"]["inputs"]["ckpt_name"] == "mine.safetensors"
    assert found["9"] == PROMPT["9"]


@pytest.mark.host
def test_the_host_has_these_nodes_and_their_inputs(loaded):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    import nodes

    known = {**nodes.NODE_CLASS_MAPPINGS, "ModelSamplingSD3": ModelSamplingSD3}
    for name in loaded.keys() - PROMPT.keys():
        node = loaded[name]
        wanted = known[node["class_type"]].INPUT_TYPES()
        assert wanted["required"].keys() == node["inputs"].keys()
    kinds = known["CLIPLoader"].INPUT_TYPES()["required"]["type"][0]
    assert loaded["flow-text"]["inputs"]["type"] in kinds
