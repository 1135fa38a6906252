"""The variation workflow in a headless ComfyUI, driven over HTTP."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import comfy_process
import loaders
import variation
import workflow
from errors import DemoError
from exemplars import Exemplar
from options import Options
from pictures import STAGES, Pictures
from progress import Progress

TEMPLATE = "1 Variation of a photo.json"
WORKFLOW = Path(__file__).resolve().parent.parent / "example_workflows" / TEMPLATE


class ComfyUIEngine:
    def __init__(self, host, python: Path):
        self.host, self.python = host, python  # the latter has what ComfyUI needs

    def __str__(self) -> str:
        return f"ComfyUI {self.host.version}"

    def run(self, options: Options, exemplars: Sequence[Exemplar]) -> list[Pictures]:
        model = loaders.files(options)
        with tempfile.TemporaryDirectory(prefix="rival-demo-") as folder:
            base = Path(folder)
            try:
                return self._generate(options, exemplars, model, base)
            except comfy_process.StartError as error:
                raise server_failure(error, base, options.output) from error
            except comfy_process.ExecutionError as error:
                raise prompt_failure(error, options) from error

    def _generate(self, options, exemplars, model: loaders.Files, base: Path) -> list[Pictures]:
        comfy_process.prepare(base, "ComfyUI-RIVAL")
        for folder, file in model.items():
            place(file, base / "models" / folder / file.name)
        # A CPU is quicker with the demo models' few weights widened once than at every call.
        arguments = ["--force-fp32"] if options.checkpoint is None else []
        print(f"Starting {self.host}", flush=True)
        with comfy_process.running(self.host, self.python, base, arguments) as client:
            prompt = fitting_prompt(client)
            return [
                vary(client, variation.job(prompt, options, exemplar, model), base,
                     exemplar, options.steps)
                for exemplar in exemplars
            ]  # fmt: skip


def vary(client, job: variation.Job, base: Path, exemplar: Exemplar, steps: int) -> Pictures:
    picture_file = base / variation.PHOTO_NAME
    exemplar.picture.save(picture_file)
    client.upload_image(picture_file)
    stages = {getattr(job, stage): label for stage, label in STAGES.items()}
    with Progress(exemplar.name, stages, steps) as progress:
        outcome = client.run(job.prompt, progress)
    (reconstruction,) = outcome.images(job.reconstruction)
    return Pictures(
        client.view(reconstruction), [client.view(i) for i in outcome.images(job.variations)]
    )


def fitting_prompt(client: comfy_process.Client) -> dict:
    """The variation workflow in API format, if this ComfyUI has all its nodes."""
    try:
        return workflow.to_prompt(json.loads(WORKFLOW.read_text("utf-8")), client.object_info())
    except workflow.WorkflowError as error:
        raise DemoError(f"this ComfyUI cannot run the variation workflow: {error}") from error


def place(source: Path, target: Path) -> None:
    """A link where the system allows one, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in (target.symlink_to, target.hardlink_to):
        try:
            return attempt(source)
        except OSError:
            continue
    shutil.copy(source, target)


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
    if options.checkpoint is not None and loaders.CHECKPOINT in refused:
        return DemoError(f"ComfyUI does not take {options.checkpoint}: give a .safetensors file")
    if options.checkpoint is not None and failed == loaders.CHECKPOINT:
        reason = error.details["exception_message"].strip().splitlines()[0]
        reason = re.sub(r"\S*rival-demo-\S*[/\\]", "", reason)  # the link's folder says nothing
        return DemoError(f"ComfyUI cannot load the checkpoint {options.checkpoint}: {reason}")
    return DemoError(f"ComfyUI could not finish: {str(error).strip().splitlines()[0]}")


def failed_types(details: dict) -> list[str]:
    """The types of the nodes that a refused prompt is refused for."""
    return [node["class_type"] for node in (details.get("node_errors") or {}).values()]
