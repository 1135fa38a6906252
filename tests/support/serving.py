"""A pytest plugin: one headless ComfyUI a session, driven over HTTP like any other client's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import frontend
import pytest
import standin

if TYPE_CHECKING:
    import comfy_process

REPO = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPO / "example_workflows").glob("*.json"))
PACK_NAME = "ComfyUI-RIVAL"
CHECKPOINT, CHECKPOINT_XL = "standin.safetensors", "standin_xl.safetensors"
LORA = CONTROLNET = "standin.safetensors"
LOADERS = {  # nodes whose first widgets name files, and the folder that these lie in
    "CheckpointLoaderSimple": "checkpoints",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "CreateHookLora": "loras",
    "CreateHookLoraModelOnly": "loras",
    "ControlNetLoader": "controlnet",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "VAELoader": "vae",
}
NAMED = {"DualCLIPLoader": 2}  # how many files, if not one
STAND_INS = REPO / "tests" / "support" / "standins"  # a custom node folder: what takes the marks
# By how a file's name begins: the miniature, or the VAE's channels and frames, in its place.
MARKS = {
    "checkpoints": {"sd3": "sd35m"},
    "diffusion_models": {
        "z_image": "zimage", "flux1": "flux", "flux2": "flux2", "qwen_image": "qwen", "wan": "wan",
    },
    "vae": {"ae": "16x0", "flux2": "128x0", "qwen_image": "16x1", "wan": "16x1"},
    "text_encoders": {"": "text"},
}  # fmt: skip


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory) -> Path:
    """Where the server's files and its log, comfyui.log, are."""
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture(scope="session")
def server(host, server_folder) -> Iterator[comfy_process.Client]:
    """Its models, under every name that a workflow's loader asks for, are the stand-ins."""
    import comfy_process  # with the host's requirements, as numpy and Pillow are below

    python = Path(sys.executable)
    comfy_process.prepare(server_folder, PACK_NAME)
    for file in model_files():
        target = server_folder / "models" / file
        if mark := mark_of(file):
            marked(target, mark)
        else:
            place(standin.cached(python, host, family_of(file)), target)
    place(STAND_INS, server_folder / "custom_nodes" / STAND_INS.name)
    paint_a_hole(host.path / "input" / "example.png", server_folder / "input" / "example.png")
    for photo in ("one", "two"):  # in the folder that a template names
        place(server_folder / "input" / "example.png", server_folder / f"input/photos/{photo}.png")
    quick = ["--force-fp32"]  # else a CPU casts the weights of float16 files at every call
    pages = frontend.static_files(python, host) if frontend.find_browser() else None
    with comfy_process.running(host, python, server_folder, quick, PACK_NAME,
                               frontend=pages) as client:
        yield client


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return server.object_info()


def paint_a_hole(source: Path, target: Path) -> None:
    """A copy of a picture whose middle is clear: what Load Image gives as its mask."""
    from PIL import Image

    picture = Image.open(source).convert("RGB")
    alpha = Image.new("L", picture.size, 255)
    (left, right), (top, bottom) = ((side // 4, 3 * side // 4) for side in picture.size)
    alpha.paste(0, (left, top, right, bottom))
    picture.putalpha(alpha)
    picture.save(target)


def model_files() -> set[Path]:
    """The files, below models/, that the tests' prompts and the workflows' loaders ask for."""
    return {
        *(Path("checkpoints", name) for name in (CHECKPOINT, CHECKPOINT_XL)),
        Path("loras", LORA),
        Path("controlnet", CONTROLNET),
        *(file for path in WORKFLOWS for file in files_of(json.loads(path.read_text("utf-8")))),
    }


def files_of(workflow: dict) -> list[Path]:
    """The files, below models/, that a workflow's loaders name."""
    return [
        Path(LOADERS[node["type"]], name)
        for node in workflow["nodes"]
        if node["type"] in LOADERS
        for name in node["widgets_values"][: NAMED.get(node["type"], 1)]
    ]


def mark_of(file: Path) -> str | None:
    """What a file of a model too large for tests is marked as; None for those with a stand-in."""
    marks = MARKS.get(file.parts[0], {})
    fitting = [start for start in marks if file.name.startswith(start)]
    return marks[max(fitting, key=len)] if fitting else None


def marked(path: Path, mark: str) -> None:
    """A file that standins/ takes for one of its miniatures."""
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"standin.{mark}": torch.zeros(1)}, path)


def family_of(file: Path) -> str:
    """Which stand-in a model file is."""
    if file.parts[0] == "checkpoints":
        return "sdxl" if "xl" in file.name.lower() else "sd15"
    return {"loras": "lora", "controlnet": "controlnet"}[file.parts[0]]


def place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copy(source, target)


def pictures(client: comfy_process.Client, outcome: comfy_process.Outcome, node: str = "images"):
    """What an image node left, as one array [N, H, W, 3] of uint8."""
    import numpy as np
    from PIL import Image

    images = [Image.open(BytesIO(client.view(image))) for image in outcome.images(node)]
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def listed_chains(server) -> list[str]:
    """What RIVAL Load Chain offers."""
    from workflow import inputs_of

    (combo,) = inputs_of(server.object_info("RivalLoadChain")["RivalLoadChain"])
    return list(combo.choices)
