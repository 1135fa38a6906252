"""Runs templates on the demo model, and draws their pictures.

    python benchmarks/applications.py --only inpainting two_photos

Each template is filled in as a user would: drawn scenes for its photos, captions for its prompts,
the demo model for its checkpoint. All other widgets stay as they are in the file, but for the
guidance, which suits the model, and fixed seeds. Leaves `example_workflows/<template>.jpg`: what
went in, and what came out. Needs a ComfyUI.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("harness", "demo", "demo/model")]

import environment
import hosts

TEMPLATES = REPO / "example_workflows"
PACK_NAME = "ComfyUI-RIVAL"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEMPLATE", help="by the files' names")
    parser.add_argument("--out", type=Path, default=TEMPLATES, help="a folder for the pictures")
    options = parser.parse_args()
    found = hosts.find_hosts()
    if not found:
        print("applications: no ComfyUI was found: set COMFYUI_PATH", file=sys.stderr)
        return 1
    host = found[0]
    python = environment.ensure(environment.ENGINE_NEEDS, [host])
    if Path(sys.prefix).resolve() != environment.VENV.resolve():
        return os.spawnv(os.P_WAIT, python, [str(python), __file__, *sys.argv[1:]])
    from application_scenes import APPLICATIONS

    chosen = {name: APPLICATIONS[name] for name in options.only or APPLICATIONS}
    with serving(host, chosen) as pictures:
        for name, application in chosen.items():
            print(name, flush=True)
            sheet = application.sheet(pictures(name, application))
            sheet.save(options.out / f"{name}.jpg", quality=88)
    return 0


@contextlib.contextmanager
def serving(host, names: Iterable[str]) -> Iterator[Callable]:
    """What runs one of these templates as an `Application` fills it in, and gives its pictures."""
    import comfy_process

    with tempfile.TemporaryDirectory(prefix="rival-applications-") as folder:
        base = Path(folder)
        comfy_process.prepare(base, PACK_NAME)
        place_models(base / "models", names)
        with comfy_process.running(host, Path(sys.executable), base, ["--bf16-unet"]) as client:
            yield functools.partial(_pictures, client, client.object_info(), base)


def place_models(models: Path, names: Iterable[str]) -> None:
    """The demo model and its adapters under every name that the templates ask for."""
    import assemble

    files = {
        "CheckpointLoaderSimple": ("checkpoints", assemble.checkpoint()),
        "LoraLoader": ("loras", assemble.WEIGHTS / "concept.safetensors"),
        "ControlNetLoader": ("controlnet", assemble.WEIGHTS / "control.safetensors"),
    }
    for name in names:
        for node in read(name)["nodes"]:
            if node["type"] in files:
                folder, file = files[node["type"]]
                target = models / folder / node["widgets_values"][0]
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.symlink_to(file)


def read(name: str) -> dict:
    return json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))


def _pictures(client, info: dict, base: Path, name: str, application) -> list:
    """What a template's Save Image nodes leave, one after the other."""
    import workflow
    from PIL import Image

    for file, picture in application.files().items():
        picture.save(base / file)
        client.upload_image(base / file)
    prompt = workflow.to_prompt(application.fill(copy.deepcopy(read(name))), info)
    outcome = client.run(prompt)
    return [
        Image.open(BytesIO(client.view(image))).convert("RGB")
        for saver in workflow.find(prompt, "SaveImage")
        for image in outcome.images(saver)
    ]


if __name__ == "__main__":
    sys.exit(main())
