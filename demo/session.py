"""One run of the demo: a headless ComfyUI, the variation workflow, and the files it leaves."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import textwrap
from io import BytesIO
from pathlib import Path

import comfy_process
import contact_sheet
import standin
import variation
import workflow
from errors import DemoError
from options import Options
from PIL import Image, ImageOps, UnidentifiedImageError
from progress import Progress

WORKFLOW = Path(__file__).resolve().parent.parent / "example_workflows" / "variation.json"
LOADER = "CheckpointLoaderSimple"
STANDIN = (
    "No checkpoint was given, so this is a stand-in with random weights: it shows that everything "
    "runs, and its pictures mean nothing. Real pictures need a real checkpoint: "
    "python demo --checkpoint FILE"
)


def run(options: Options, host, python: Path) -> None:
    """Everything, with `python`, which has what ComfyUI needs."""
    photo = read_photo(options.image)
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"Variations of {options.image.name} with {host}")
    if options.checkpoint is None:
        print(textwrap.fill(STANDIN, 90))
    checkpoint = options.checkpoint or standin.cached(python, host)
    with tempfile.TemporaryDirectory(prefix="rival-demo-") as folder:
        base = Path(folder)
        try:
            images = generate(options, host, python, base, photo, checkpoint)
        except comfy_process.StartError as error:
            raise server_failure(error, base, options.output) from error
        except comfy_process.ExecutionError as error:
            raise prompt_failure(error, options) from error
    sheet = contact_sheet.contact_sheet(
        photo,
        to_image(images["reconstruction"][0]),
        [*map(to_image, images["variations"])],
        sheet_text(options, checkpoint),
    )
    names = save(images, sheet, options.output)
    print(f"Wrote {', '.join(names)} to {options.output}")


def generate(options, host, python, base: Path, photo: Image.Image, checkpoint: Path) -> dict:
    """The PNG files, by what they show, of one headless run."""
    comfy_process.prepare(base, "ComfyUI-RIVAL")
    place(checkpoint, base / "models" / "checkpoints" / checkpoint.name)
    photo_file = base / variation.PHOTO_NAME
    photo.save(photo_file)
    # A CPU is quicker with the stand-in's few weights widened once than at every call.
    arguments = ["--force-fp32"] if options.checkpoint is None else []
    print("Starting ComfyUI", flush=True)
    with comfy_process.running(host, python, base, arguments) as client:
        client.upload_image(photo_file)
        job = variation.job(fitting_prompt(client), options, checkpoint.name)
        stages = {
            job.invert: "Inverting the photo",
            job.sample: "Sampling the variations",
            job.reconstruct: "Reconstructing the photo",
        }
        progress = Progress(stages, options.steps)
        try:
            outcome = client.run(job.prompt, progress)
        finally:
            progress.close()
        return {
            "reconstruction": [client.view(i) for i in outcome.images(job.reconstruction)],
            "variations": [client.view(i) for i in outcome.images(job.variations)],
        }


def fitting_prompt(client: comfy_process.Client) -> dict:
    """The variation workflow in API format, if this ComfyUI has all its nodes."""
    try:
        return workflow.to_prompt(json.loads(WORKFLOW.read_text("utf-8")), client.object_info())
    except workflow.WorkflowError as error:
        raise DemoError(f"this ComfyUI cannot run the variation workflow: {error}") from error


def read_photo(path: Path) -> Image.Image:
    """The picture as it is meant to be seen, in RGB."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DemoError(f"{path} cannot be read as a picture: give a JPEG or PNG") from error


def place(source: Path, target: Path) -> None:
    """A link where the system allows one, else a copy."""
    for attempt in (target.symlink_to, target.hardlink_to):
        try:
            return attempt(source)
        except OSError:
            continue
    shutil.copy(source, target)


def to_image(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def sheet_text(options: Options, checkpoint: Path) -> contact_sheet.Text:
    model = "stand-in checkpoint" if options.checkpoint is None else checkpoint.name
    prompt = f"prompt: {options.prompt}" if options.prompt else "no prompt"
    details = f"{options.image.name}, {model}, {options.steps} steps, seed {options.seed}, {prompt}"
    return contact_sheet.Text(
        "RIVAL variations", details, STANDIN if options.checkpoint is None else ""
    )


def save(images: dict, sheet: Image.Image, folder: Path) -> list[str]:
    """Write all pictures as PNG; returns their names."""
    files = {"reconstruction.png": images["reconstruction"][0]}
    files |= {f"variation_{i + 1}.png": data for i, data in enumerate(images["variations"])}
    for name, data in files.items():
        (folder / name).write_bytes(data)  # as ComfyUI made it, with its workflow inside
    sheet.save(folder / "contact_sheet.png")
    return ["contact_sheet.png", *files]


def server_failure(error: Exception, base: Path, output: Path) -> DemoError:
    """Keeps the server's log, which is about to be deleted with the rest of its folder."""
    log = base / "comfyui.log"
    kept = ""
    if log.exists():
        shutil.copy(log, output / "comfyui.log")
        kept = f"; its log is {output / 'comfyui.log'}"
    return DemoError(f"{str(error).splitlines()[0].split(';')[0]}{kept}")


def prompt_failure(error: comfy_process.ExecutionError, options: Options) -> DemoError:
    """A node's failure, or the server's refusal of the whole prompt, in one sentence."""
    failed, refused = error.details.get("node_type"), failed_types(error.details)
    if options.checkpoint is not None and LOADER in refused:
        return DemoError(f"ComfyUI does not take {options.checkpoint}: give a .safetensors file")
    if options.checkpoint is not None and failed == LOADER:
        reason = error.details["exception_message"].strip().splitlines()[0]
        reason = re.sub(r"\S*rival-demo-\S*[/\\]", "", reason)  # the link's folder says nothing
        return DemoError(f"ComfyUI cannot load the checkpoint {options.checkpoint}: {reason}")
    return DemoError(f"ComfyUI could not finish: {str(error).strip().splitlines()[0]}")


def failed_types(details: dict) -> list[str]:
    """The types of the nodes that a refused prompt is refused for."""
    return [node["class_type"] for node in (details.get("node_errors") or {}).values()]
