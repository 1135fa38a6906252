"""Runs templates on the demo model, and draws their pictures.

    python tools/applications.py --only "5 Inpaint a photo"

Each template is filled in as a user would: drawn scenes for its photos, captions for its prompts,
the demo's models for its own. All other widgets stay as they are in the file, but for the
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
from options import FLOW, UNET

TEMPLATES = REPO / "example_workflows"
PACK_NAME = "ComfyUI-RIVAL"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEMPLATE", help="by the files' names")
    parser.add_argument("--out", type=Path, default=TEMPLATES, help="a folder for the pictures")
    options = with_model(parser).parse_args()
    host = ready(__file__)
    from application_scenes import APPLICATIONS
    from cards import card

    chosen = {name: APPLICATIONS[name].by(options.model) for name in options.only or APPLICATIONS}
    run = {application.template or name for name, application in chosen.items()}
    with serving(host, run) as pictures:
        for name, application in chosen.items():
            print(name, flush=True)
            shown = [photo.shown for photo in application.photos]
            drawn = card(shown, pictures(application.template or name, application))
            drawn.save(options.out / f"{name}.jpg", quality=85, optimize=True)
    return 0


def with_model(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--model", choices=(UNET, FLOW),
                        help="of the demo's two, in the place of the one that suits the template")
    return parser


def ready(script: str) -> hosts.Host:
    """The first ComfyUI found. A Python that cannot run it starts the script in one that can."""
    found = hosts.find_hosts()
    if not found:
        raise SystemExit(f"{Path(script).stem}: no ComfyUI was found: set COMFYUI_PATH")
    python = environment.ensure(environment.ENGINE_NEEDS, found[:1])
    if Path(sys.prefix).resolve() != environment.VENV.resolve():
        raise SystemExit(os.spawnv(os.P_WAIT, python, [str(python), script, *sys.argv[1:]]))
    return found[0]


@contextlib.contextmanager
def serving(host: hosts.Host, names: Iterable[str]) -> Iterator[Callable]:
    """What runs one of these templates as an `Application` fills it in, and gives its pictures."""
    with connected(host, names) as (client, base):
        yield functools.partial(_pictures, client, client.object_info(), base)


@contextlib.contextmanager
def connected(host: hosts.Host, names: Iterable[str]) -> Iterator[tuple]:
    """A client of a headless host with the models of these templates, and the host's folder."""
    import comfy_process

    with tempfile.TemporaryDirectory(prefix="rival-applications-") as folder:
        base = Path(folder)
        comfy_process.prepare(base, PACK_NAME)
        place_models(base / "models", names)
        place_flow_model(base / "models")
        with comfy_process.running(host, Path(sys.executable), base, ["--bf16-unet"]) as client:
            yield client, base


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


def place_flow_model(models: Path) -> None:
    import loaders

    for folder, file in loaders.flow_files().items():
        (models / folder).mkdir(parents=True, exist_ok=True)
        (models / folder / file.name).symlink_to(file)


def read(name: str) -> dict:
    return json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))


def _pictures(client, info: dict, base: Path, name: str, application) -> list:
    """What a template's Save Image nodes leave, one after the other."""
    import workflow

    prompt = prompt_of(client, info, base, name, application)
    outcome = client.run(prompt)
    savers = workflow.find(prompt, "SaveImage")
    return [picture for saver in savers for picture in shown(client, outcome, saver)]


def prompt_of(client, info: dict, base: Path, name: str, application) -> dict:
    """The template, filled in, in API format; its photos are on the server by then."""
    import loaders
    import workflow

    folder = base / "input" / "photos"  # what a node that reads a whole folder takes
    folder.mkdir(exist_ok=True)
    for file, picture in application.files().items():
        picture.save(base / file)
        client.upload_image(base / file)
        picture.convert("RGB").save(folder / file)
    prompt = workflow.to_prompt(application.fill(copy.deepcopy(read(name))), info)
    prompt = application.rewire(prompt)
    return loaders.loading(prompt, loaders.flow_files()) if application.model == FLOW else prompt


def shown(client, outcome, node: str) -> list:
    """The pictures that a node left."""
    from PIL import Image

    files = (client.view(image) for image in outcome.images(node))
    return [Image.open(BytesIO(file)).convert("RGB") for file in files]


if __name__ == "__main__":
    sys.exit(main())
