"""What keeping a photo's features does to the image, and to memory, on this machine.

    python benchmarks/kept_features.py --steps 20 --runs 10

The demo model (or --checkpoint and --images) inverts a picture exactly and makes variations of it
in every way that features can be kept: by the first run or by the inversion, whole or as int8, on
a GPU or in RAM. Printed are how far the latents are from those that live features give, in the
first run and at worst in the later ones, which have other seeds; what is kept; how many of a run's
steps also ran the photo; and how much more memory is held after the last run than after the second.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import hosted


class Way(NamedTuple):
    features: str
    handed_over: bool = False  # by the inversion
    in_ram: bool = False  # though the GPU has room

    def __str__(self) -> str:
        return "".join([f"`{self.features}`", ", from RIVAL Invert" * self.handed_over,
                        ", in RAM" * self.in_ram])


def main() -> int:
    parser = hosted.parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--checkpoint", help="measure this checkpoint instead")
    parser.add_argument("--images", nargs="+", default=[], help="a picture for --checkpoint")
    return hosted.start(run, parser.parse_args())


def run(host, options: argparse.Namespace) -> None:
    import inversion
    import torch

    options.scenes = 1
    name, model, ((latent, prompt), *_) = inversion.subjects(options)[0]
    print(f"{host}, {name}, {options.steps} steps of anderson, {options.runs} runs\n",
          "| features | first run | later runs | kept MB | photo's rows | memory grew by, MB |",
          "|" + "---|" * 6, sep="\n")
    places = (False, True) if torch.cuda.is_available() else (False,)
    ways = [Way(features, handed, in_ram) for features in ("cached", "cached_int8")
            for in_ram in places for handed in (False, True)]
    for way in (Way("live"), *ways):
        print(measure(way, model, latent, prompt, options), flush=True)


def measure(way: Way, model, latent, prompt, options: argparse.Namespace) -> str:
    """One row of the table."""
    from step_cost import ram_only

    with ram_only(way.in_ram):
        kept = way.features if way.handed_over else "live"
        chain = invert(model, latent, prompt, options.steps, kept)
        errors, rows, memory = [], [], []
        for seed in range(options.runs):
            exact, _ = sample(model, chain, prompt, seed, "live")
            got, calls = sample(model, chain, prompt, seed, way.features)
            errors.append(float((got - exact).norm() / exact.norm()))
            rows.append(calls)
            memory.append(held())
    grown = (memory[-1] - memory[min(1, len(memory) - 1)]) / 1e6
    return (f"| {way} | {errors[0]:.1e} | {max(errors[1:], default=0):.1e} "
            f"| {chain.features.nbytes / 1e6:.1f} | {rows[0]}, then {max(rows[1:], default=0)} "
            f"| {grown:+.1f} |")


def invert(model, latent, prompt, steps: int, features: str):
    from comfyui_rival.nodes import RivalInvert

    return RivalInvert.execute(model, latent, prompt, steps, "rival", "anderson", 10, 1e-4, 1.0,
                               1, 1.0, features=features).args[0]


def sample(model, chain, prompt, seed: int, features: str) -> tuple:
    """(the latents of one variation, calls of the photo's own row)"""
    from comfyui_rival.nodes import RivalKSampler, host
    from comfyui_rival.nodes.steering.run import align
    from comfyui_rival.rival_core.steering.exemplar import Exemplar

    original, calls = host.evaluate, []

    def watched(*args):
        calls.append(1)
        return original(*args)

    host.evaluate = watched
    try:
        output = RivalKSampler.execute(align(model, Exemplar(chain, features=features)), chain,
                                       prompt, prompt, seed, 5.0, "euler", "shuffle", 1, 1.0, 0.0,
                                       0.0, 1.0)
    finally:
        host.evaluate = original
    return output.args[0]["samples"], len(calls)


def held() -> int:
    """Bytes: of torch's on a GPU, else of the process."""
    import meters
    import torch

    gc.collect()
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    meters.return_free_memory()  # else growth could hide in it
    return meters.resident("VmRSS")


if __name__ == "__main__":
    sys.exit(main())
