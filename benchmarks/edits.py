"""One photo, one changed word of its caption, every way to edit: what comes of it, and the cost.

    python benchmarks/edits.py --figure docs/edits.jpg

Every method edits the same drawn scenes, which the demo's models never saw: once the shapes are to
take another colour, once to be of another kind. Printed are the error of the way
back without an edit, the rows of the model that inversion and edit take, the processor's time as
a multiple of plain sampling, how often the change happened, and how far the rest moved: the mean
difference outside the shapes, in levels of 255, from the photo as the autoencoder gives it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("harness", "demo", "demo/model")]

import hosted
from edit_methods import FLOW, UNET, Method, Models, Task

FIRST_SEED = 9_100_000_000  # no training sees them
SCENES = [  # seed, what the photo shows, the other colour, the other kind
    (11, (1, "white", "star", "red", "striped"), "blue", "circle"),
    (7, (2, "purple", "ring", "yellow", "dotted"), "green", "square"),
    (3, (3, "red", "circle", "blue", "checked"), "yellow", "star"),
    (5, (1, "orange", "square", "green", "plain"), "purple", "triangle"),
]


class Outcome(NamedTuple):
    """Of one edit. error: of the way back, None without an inversion. rows: inversion, edit."""

    image: object  # [3, h, w]
    error: float | None
    rows: tuple[int, int]
    seconds: float


def main() -> int:
    parser = hosted.parser_of(__doc__)
    parser.add_argument("--scenes", type=int, default=len(SCENES), help=f"({len(SCENES)})")
    parser.add_argument("--model", choices=("unet", "flow"), nargs="+", default=["unet", "flow"])
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="by parts of their names")
    parser.add_argument("--figure", type=Path, help="a file for the sheet of the first photo")
    return hosted.start(run, parser.parse_args())


def run(host, options: argparse.Namespace) -> None:
    import torch
    from edit_measures import COLOR, KIND, right
    from picture import edits

    torch.set_num_threads(1)  # so that the processor's time is that of the work
    sheets = []
    for name in options.model:
        loaded, methods = {"unet": (unet, UNET), "flow": (flow, FLOW)}[name]
        models = loaded()
        chosen = [methods[0], *(m for m in methods[1:] if is_wanted(m, options.only))]
        cases = {change: [case_of(models, *scene, change) for scene in SCENES[:options.scenes]]
                 for change in (COLOR, KIND)}
        outcomes = measured(models, chosen, cases)
        print(f"\nthe demo's {name}, {host}, {options.scenes} scenes\n")
        print(table(cases, outcomes), flush=True)
        found = right(functools.partial(through, models))
        print(f"\nthe judge is right about the kind of {found} of 100 true scenes")
        sheets.append((name, cases, outcomes))
    if options.figure:
        edits(sheets).save(options.figure, quality=85, optimize=True, progressive=True)


def is_wanted(method: Method, only: Sequence[str] | None) -> bool:
    return not only or any(part in method.name for part in only)


def unet() -> Models:
    from assemble import checkpoint
    from inversion import load

    return Models(*load(str(checkpoint())))


def flow() -> Models:
    """As the demo's graph loads it: what UNETLoader, ModelSamplingSD3 and the others give."""
    import comfy.sd
    import comfy.utils
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3
    from flow import SHIFT
    from loaders import flow_files

    files = {folder: str(path) for folder, path in flow_files().items()}
    network = comfy.sd.load_diffusion_model(files["diffusion_models"])
    clip = comfy.sd.load_clip([files["text_encoders"]], clip_type=comfy.sd.CLIPType.SD3)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(files["vae"]))
    return Models(ModelSamplingSD3().patch(network, SHIFT)[0], clip, vae)


def case_of(models: Models, seed: int, attributes: tuple, color: str, kind: str, change: str):
    from edit_measures import COLOR, Case, middle
    from inversion import encode
    from render import render
    from scenes import Attributes, caption, make_scene

    scene = make_scene(FIRST_SEED + seed, Attributes(*attributes))
    new = {"color": color} if change == COLOR else {"kind": kind}
    wanted = replace(scene.attributes, **new)
    style = replace(scene.style, color=middle(color)) if change == COLOR else scene.style
    photo = encode(models.vae, render([scene]).movedim(1, -1))
    shapes = scene.attributes.kind + "s" * (scene.attributes.count > 1)
    words = f"{scene.attributes.color} {shapes}" if change == COLOR else shapes
    task = Task(photo, caption(scene.attributes), caption(wanted), words)
    changed = replace(scene, attributes=wanted, style=style)
    return Case(scene, changed, task, decoded(models, photo))


def through(models: Models, images):
    """Pictures [n, 3, h, w] as the autoencoder gives them."""
    return models.vae.decode(models.vae.encode(images.movedim(1, -1))).movedim(-1, 1)


def decoded(models: Models, latent: dict):
    """[3, h, w] in 0..1."""
    image = models.vae.decode(latent["samples"])
    return image.reshape(-1, *image.shape[-3:])[0].movedim(-1, 0).clamp(0, 1).float().cpu()


def measured(models: Models, methods: Sequence[Method], cases: dict) -> dict:
    """{method: {change: [Outcome of each case]}}; what is inverted alike is inverted once."""
    counter = Rows(models.model.model.diffusion_model)
    found = {method.name: {change: [] for change in cases} for method in methods}
    for of_photo in zip(*cases.values()):
        chains = {}
        for method in methods:
            for change, case in zip(cases, of_photo):
                made = outcome(models, method, case, counter, chains)
                found[method.name][change].append(made)
            print(method.name, file=sys.stderr, flush=True)
    return found


def outcome(models: Models, method: Method, case, counter: Rows, chains: dict) -> Outcome:
    """chains: of this photo so far, each with its cost and error."""
    key = f"{method.inversion} {method.captioned}"
    if key not in chains:
        chain, rows, seconds = counter.cost(lambda: method.invert(models, case.task))
        chains[key] = chain, rows, seconds, round_trip(models, chain)
    chain, rows, seconds, error = chains[key]
    latent, more, longer = counter.cost(lambda: method.edit(models, case.task, chain))
    return Outcome(decoded(models, latent), error, (rows, more), seconds + longer)


def round_trip(models: Models, chain) -> float | None:
    """The relative squared error of the latent that the chain's own way back leads to."""
    if chain is None:
        return None
    from comfyui_rival.nodes import RivalReconstruct

    return RivalReconstruct.execute(models.model, chain).args[1]


class Rows:
    """Counts what a network evaluates: a row is one image of one call."""

    def __init__(self, network):
        self.rows = 0
        network.register_forward_pre_hook(self.count)

    def count(self, network, given) -> None:
        self.rows += len(given[0])

    def cost(self, work) -> tuple:
        """(what it gives, rows, the processor's seconds)"""
        rows, started = self.rows, time.process_time()
        result = work()
        return result, self.rows - rows, time.process_time() - started


HEAD = {"colour": ["new colour", "off by", "rest moved"], "kind": ["new kind", "rest moved"]}


def table(cases: dict, outcomes: dict) -> str:
    """A row for each method; costs are medians, what is seen is the mean over the photos."""
    from edit_measures import seen

    plain = seconds(next(iter(outcomes.values())))
    head = ["method", "error", "rows", "time", *(name for change in cases for name in HEAD[change])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, of_method in outcomes.items():
        first = next(iter(of_method.values()))
        errors = [o.error for o in first if o.error is not None]
        rows = [round(statistics.median(o.rows[i] for o in first)) for i in (0, 1)]
        cells = [name, f"{statistics.median(errors):.0e}" if errors else "",
                 f"{rows[0]} + {rows[1]}" if rows[0] else f"{rows[1]}",
                 f"{seconds(of_method) / plain:.1f}"]
        for change, found in of_method.items():
            cells += seen(change, cases[change], [o.image for o in found])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seconds(of_method: dict) -> float:
    return statistics.median(o.seconds for found in of_method.values() for o in found)


if __name__ == "__main__":
    sys.exit(main())
