"""A pytest plugin: one headless ComfyUI a session, driven over HTTP like any other client's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import standin

if TYPE_CHECKING:
    import comfy_process

REPO = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((REPO / "example_workflows").glob("*.json"))
PACK_NAME = "ComfyUI-RIVAL"
CHECKPOINT = "standin.safetensors"


@pytest.fixture(scope="session")
def server(host, tmp_path_factory) -> Iterator[comfy_process.Client]:
    """Its checkpoints, under every name that a workflow asks for, are the one stand-in."""
    import comfy_process  # with the host's requirements, as numpy and Pillow are below

    base = tmp_path_factory.mktemp("comfyui")
    comfy_process.prepare(base, PACK_NAME)
    checkpoint = standin.cached(Path(sys.executable), host)
    for name in {CHECKPOINT, *workflow_checkpoints()}:
        link_or_copy(checkpoint, base / "models" / "checkpoints" / name)
    shutil.copy(host.path / "input" / "example.png", base / "input")
    quick = ["--force-fp32"]  # else a CPU casts the weights of float16 files at every call
    python = Path(sys.executable)
    with comfy_process.running(host, python, base, quick, PACK_NAME) as client:
        yield client


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return server.object_info()


def workflow_checkpoints() -> set[str]:
    """The file names in the example workflows' checkpoint loaders."""
    return {
        node["widgets_values"][0]
        for path in WORKFLOWS
        for node in json.loads(path.read_text("utf-8"))["nodes"]
        if node["type"] == "CheckpointLoaderSimple"
    }


def link_or_copy(source: Path, target: Path) -> None:
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
