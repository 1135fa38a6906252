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
LOADERS = {  # nodes whose first widget names a file, and the folder that it lies in
    "CheckpointLoaderSimple": "checkpoints",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "CreateHookLora": "loras",
    "CreateHookLoraModelOnly": "loras",
    "ControlNetLoader": "controlnet",
}


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
        place(standin.cached(python, host, family_of(file)), server_folder / "models" / file)
    paint_a_hole(host.path / "input" / "example.png", server_folder / "input" / "example.png")
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
        *(
            Path(LOADERS[node["type"]], node["widgets_values"][0])
            for path in WORKFLOWS
            for node in json.loads(path.read_text("utf-8"))["nodes"]
            if node["type"] in LOADERS
        ),
    }


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
