"""How good variations are, measured where the truth is known: on scenes drawn from a seed.

    python benchmarks/quality.py --model flow --rows rows.png

A demo model varies scenes that it has never seen, with captions that it was never taught, by every
method of the table. Each variation is measured against its exemplar as the autoencoder shows it:
how near in palette and texture, whether kind and number of the shapes are the exemplar's, how near
their outlines are to their kind's, and how far the layout is from the exemplar's and from the other
variations'. The first row is the truth: the same scene drawn in other layouts. Printed are a table
for docs/quality.md, the margin of error of what reads it, each method beside text-to-image scene by
scene, and what the rows say for and against RIVAL. Two pictures are left: all methods, and RIVAL
beside its exemplars.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
WEIGHTS = REPO / "demo" / "model" / "weights"
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import environment

FIRST_SEED = 9 * 10**9  # of the exemplars: no training sees them
TAUGHT = 600  # captions that also the shortest training has seen
ITERATIONS = 10  # of a solver, at most
JUDGED = 200  # other true scenes, on which what measures is itself measured
TRUTH = "the same scene drawn anew"


def main() -> int:
    return start(run, parse())


def start(run: Callable, options: argparse.Namespace) -> int:
    """Runs it where its requirements are, in another process if this one lacks them."""
    needs = environment.ENGINE_NEEDS
    capable = environment.capable_interpreter(needs)
    python = capable or environment.ensure(needs)
    if not capable and Path(sys.prefix).resolve() != environment.VENV.resolve():
        return os.spawnv(os.P_WAIT, python, [str(python), *sys.argv])
    # Threads that wait by spinning make a CPU run three times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    run(options)
    return 0


def parser_of(description: str, scenes: int) -> argparse.ArgumentParser:
    """What every measurement of variations asks for."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=scenes, help=f"exemplars ({scenes})")
    parser.add_argument("--variations", type=int, default=2, help="of each, by each method (2)")
    parser.add_argument("--cfg", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=("unet", "flow"), default="unet",
                        help="which of the demo's models (unet)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the demo models' folder")
    parser.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's own choice")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16",
                        help="of sampling (bfloat16); chains are float32 always")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    return parser


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, scenes=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--solver", default="anderson", help="of the chains (anderson)")
    parser.add_argument("--simple", action="store_true",
                        help="the flow model's chains walk ComfyUI's simple, not beta")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.4, 0.6, 0.8],
                        help="of image-to-image (0.4 0.6 0.8)")
    parser.add_argument("--captions", choices=("held-out", "taught"), default="held-out",
                        help="the exemplars' captions: never trained on, or trained on")
    parser.add_argument("--picture", type=Path, default=REPO / ".cache" / "quality.png",
                        help="the file for a picture of some variations by every method")
    parser.add_argument("--rows", type=Path, default=REPO / ".cache" / "rows.png",
                        help="the file for a picture of exemplars, RIVAL, and text-to-image")
    options = parser.parse_args()
    if options.simple and options.model != "flow":
        parser.error("--simple is for --model flow: the UNet walks the paper's timesteps")
    return options


def run(options: argparse.Namespace) -> None:
    import flow
    import report
    import torch
    import variations
    from render import render

    model, judge, clock = prepared(options)
    settings = variations.Settings(options.steps, options.cfg, options.variations, options.seed,
                                   variations.Solver(options.solver, ITERATIONS))
    accuracy, overlap = accuracies(model, judge)
    clock.say("the judge")
    scenes = choose_scenes(options.scenes, options.captions, FIRST_SEED)
    latents = model.encode(render(scenes))
    sigmas = flow.simple(options.steps) if options.simple else None
    cases = variations.make_cases(model, scenes, latents, settings, sigmas=sigmas)
    shown = model.decode(latents)
    clock.say(f"{len(cases)} chains")
    images = {TRUTH: true_variations(model.through, scenes, options.variations)}
    made = variations.methods(options.strengths, model.gates, options.model == "flow")
    for name, make in made.items():
        images[name] = [model.decode(make(model.quick, case, settings)) for case in cases]
        clock.say(name)
    figures = {name: report.measure(judge, scenes, shown, of_method)
               for name, of_method in images.items()}
    back = torch.cat([variations.walk_back(model.exact, case) for case in cases])
    print(report.heading(options, accuracy, overlap), "", report.table(figures), "",
          report.paired(figures, report.PLAIN), "",
          report.reconstruction(back, latents, model.decode(back), shown), "",
          *report.claims(figures, options.strengths), sep="\n")
    draw(options, scenes, shown, images)


def prepared(options: argparse.Namespace) -> tuple:
    """The model, the judge for its autoencoder, and a clock that runs since then."""
    from judge import FOLDER, trained_judge

    clock, model = Clock(), demo_model(options)
    return model, trained_judge(model.through, FOLDER, model.digest), clock


def demo_model(options: argparse.Namespace):
    import torch
    import variations

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.precision)
    return variations.DemoModel(options.model, options.weights, dtype, device)


def accuracies(model, judge) -> tuple[dict, float]:
    """Of the judge on true scenes, and of the shapes by which layouts are measured."""
    import report
    from judge import agreement
    from render import render

    unseen = choose_scenes(JUDGED, "held-out", FIRST_SEED + 10**6)
    seen = model.through(render(unseen))
    found = agreement(judge, seen, [scene.attributes for scene in unseen])
    return found, report.masks_overlap(unseen, seen)


def draw(options: argparse.Namespace, scenes: Sequence, shown, images: dict) -> None:
    """The two pictures."""
    import picture
    import report

    pages = {options.picture: picture.sheet(scenes, shown, images),
             options.rows: picture.rows(scenes, shown, images[report.RIVAL], images[report.PLAIN])}
    for file, page in pages.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        page.save(file)
        print(f"\npicture: {file}")


def choose_scenes(count: int, captions: str, first: int) -> list:
    """Scenes from this seed on, with the textures in turn so that each is equally frequent."""
    from scenes import TEXTURES, all_attributes, make_scene
    from split import is_held_out, trained_attributes

    unseen = filter(is_held_out, all_attributes())
    allowed = set(unseen if captions == "held-out" else trained_attributes(TAUGHT))
    chosen, seed = [], first
    while len(chosen) < count:
        scene, seed = make_scene(seed), seed + 1
        due = TEXTURES[len(chosen) % len(TEXTURES)]
        if scene.attributes.texture == due and scene.attributes in allowed:
            chosen.append(scene)
    return chosen


def true_variations(through: Callable, scenes: Sequence, count: int) -> list:
    """What an ideal method would give, [count, 3, h, w] for each scene."""
    from render import render
    from scenes import relayout

    return [through(render([relayout(scene, i) for i in range(count)])) for scene in scenes]


class Clock:
    """Says on stderr what has been done, and in how long."""

    def __init__(self):
        self.last = time.monotonic()

    def say(self, what: str) -> None:
        now = time.monotonic()
        print(f"{what}: {now - self.last:.0f} s", file=sys.stderr, flush=True)
        self.last = now


if __name__ == "__main__":
    sys.exit(main())
