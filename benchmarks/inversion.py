"""What each inversion solver loses, and what it costs: the round trip to noise and back.

    python benchmarks/inversion.py --steps 10 20 50 --scenes 4

Every solver inverts the same pictures in the same ComfyUI, through RIVAL Invert, and RIVAL
Reconstruct walks back: medians over the pictures of the latents' relative squared error, of the
worst step's residual, of model evaluations and of seconds. Once on the trained demo model
(scenes it never saw, with their captions), once on an SD1.5-family UNet of seeded weights with
strong attention; --checkpoint measures another one, on --images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import hosted

# (solver, iterations, how many earlier iterates anderson mixes in)
ROWS = [("ddim", 1, 1), ("uni_inv", 1, 1), ("obelm", 1, 1), ("bdia", 1, 1), ("edict", 1, 1),
        ("midpoint", 1, 1), ("fireflow", 1, 1), ("edit_friendly", 1, 1),
        ("fixed_point", 5, 1), ("fixed_point", 10, 1),
        ("empirical", 5, 1), ("anderson", 3, 1), ("anderson", 5, 1), ("anderson", 10, 1),
        ("anderson", 10, 2), ("anderson", 10, 3)]
FIRST_SCENE = 5 * 10**9  # never trained on


def main() -> int:
    return hosted.start(run, parse())


def run(host, options: argparse.Namespace) -> None:
    for name, model, pictures in subjects(options):
        print(f"\n{name}, {host}, {len(pictures)} pictures\n")
        table(model, pictures, options.steps)


def parse() -> argparse.Namespace:
    parser = hosted.parser_of(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--scenes", type=int, default=4, help="pictures to invert (4)")
    parser.add_argument("--checkpoint", help="measure this checkpoint instead")
    parser.add_argument("--images", nargs="+", default=[], help="pictures for --checkpoint")
    return parser.parse_args()


def subjects(options) -> list[tuple]:
    """(name, MODEL, [(LATENT, CONDITIONING)]) of each model to be measured."""
    if options.checkpoint:
        model, clip, vae = load(options.checkpoint)
        latents = [encode(vae, read(path)) for path in options.images]
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        return [(Path(options.checkpoint).name, model, [(x, prompt) for x in latents])]
    from assemble import checkpoint

    model, clip, vae = load(str(checkpoint()))
    pictures = [(encode(vae, picture), clip.encode_from_tokens_scheduled(clip.tokenize(text)))
                for picture, text in scenes(options.scenes)]
    return [("the demo model", model, pictures), ("seeded UNet", seeded_unet(), pictures[:1])]


def load(checkpoint: str) -> tuple:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(checkpoint)[:3]


def seeded_unet():
    """An untrained MODEL of SD1.5's family (harness/seeded.py)."""
    import comfy.sd
    import unets

    network = unets.seeded_unet(unets.SD15, 0)
    weights = {f"model.diffusion_model.{name}": weight for name, weight in network.items()}
    return comfy.sd.load_diffusion_model_state_dict(weights)


def scenes(count: int) -> list[tuple]:
    """(picture [1, H, W, 3], caption) of scenes whose captions were never trained on."""
    from itertools import count as counting
    from itertools import islice

    from render import render
    from scenes import caption, make_scene
    from split import is_held_out

    drawn = (make_scene(seed) for seed in counting(FIRST_SCENE))
    held_out = islice((scene for scene in drawn if is_held_out(scene.attributes)), count)
    return [(render([s]).movedim(1, -1), caption(s.attributes)) for s in held_out]


def read(path: str):
    import numpy as np
    import torch
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(path).convert("RGB")) / 255).float()[None]


def encode(vae, picture) -> dict:
    return {"samples": vae.encode(picture)}


def table(model, pictures: list, steps: list[int]) -> None:
    print("| steps | solver | iterations | error | residual | evaluations | seconds |")
    print("|---|---|---|---|---|---|---|")
    for row in [*((count, *row) for count in steps for row in ROWS), (100, *ROWS[0])]:
        report(*row, model, pictures)


def report(steps: int, solver: str, iterations: int, window: int, model, pictures: list) -> None:
    found = [round_trip(model, *picture, steps, solver, iterations, window)
             for picture in pictures]
    error, evaluations, seconds = map(statistics.median, zip(*(figures[:3] for figures in found)))
    residuals = [figures[3] for figures in found if figures[3] is not None]
    kept = f"{statistics.median(residuals):.0e}" if residuals else ""
    name = f"`{solver}`" + (f", m = {window}" if solver == "anderson" else "")
    print(f"| {steps} | {name} | {iterations} | {error:.1e} | {kept} | {evaluations:.0f} "
          f"| {seconds:.1f} |", flush=True)


def round_trip(
    model, latent, prompt, steps: int, solver: str, iterations: int, window: int
) -> tuple:
    """(relative squared error, evaluations, seconds of the inversion, worst residual if solved)."""
    from comfyui_rival.nodes import RivalInvert, RivalReconstruct

    started = time.perf_counter()
    chain = RivalInvert.execute(
        model, latent, prompt, steps, "rival", solver, iterations, 1e-4, 1.0, window, 1.0
    ).args[0]
    seconds = time.perf_counter() - started
    error = RivalReconstruct.execute(model, chain).args[1]
    residual = float(chain.residuals.max()) if chain.solver.iterates else None
    return error, chain.evaluations, seconds, residual


if __name__ == "__main__":
    sys.exit(main())
