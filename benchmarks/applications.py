"""Runs templates on the demo model, and draws their pictures.

    python benchmarks/applications.py --only inpainting two_photos

Each template is filled in as a user would: drawn scenes for its photos, captions for its prompts,
the demo model for its checkpoint. All other widgets stay as they are in the file, but for the
guidance, which suits the model, and fixed seeds. Leaves `example_workflows/<template>.jpg`: what
went in, and what came out. Needs a ComfyUI.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
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
    with tempfile.TemporaryDirectory(prefix="rival-applications-") as folder:
        run(host, Path(folder), chosen, options.out)
    return 0


def run(host, base: Path, applications: dict, out: Path) -> None:
    import comfy_process

    comfy_process.prepare(base, PACK_NAME)
    place_models(base / "models", applications)
    with comfy_process.running(host, Path(sys.executable), base, ["--bf16-unet"]) as client:
        info = client.object_info()
        for name, application in applications.items():
            print(name, flush=True)
            results = pictures(client, info, base, name, application)
            application.strip(results).save(out / f"{name}.jpg", quality=88)


def place_models(models: Path, applications: dict) -> None:
    """The demo model under every name that the templates ask for."""
    import assemble

    for name in applications:
        for node in read(name)["nodes"]:
            if node["type"] == "CheckpointLoaderSimple":
                target = models / "checkpoints" / node["widgets_values"][0]
                if not target.exists():
                    target.symlink_to(assemble.checkpoint())


def read(name: str) -> dict:
    return json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))


def pictures(client, info: dict, base: Path, name: str, application) -> list:
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
