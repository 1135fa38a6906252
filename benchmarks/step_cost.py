"""What variations cost: plain KSampler, this pack, and the official algorithm.

    python benchmarks/step_cost.py --size 256 --variations 1 4 16
    python benchmarks/step_cost.py --size 512 --variations 1 --rounds 2

All run the same network in the same process, in turn, and medians are compared. A row is one
step inside `replace_end` and one after it at the default gates, weighted as the 50 steps of the
paper hold them. `live` computes the photo's features beside each step, in the image's own model
call where it can; "apart" it has a call of its own. `cached` reads those that an earlier run left.
The official script runs four rows a variation (conditional and unconditional, exemplar and
generated), all of which read the longer keys; N variations are N times one. Without --checkpoint
the network is SD1.5's or SDXL's, full size, or two blocks of Flux's or Z-Image's; random weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from typing import NamedTuple

import hosted

STEPS = 50  # the paper's, and as many inversion calls
FAST = (20, 85)  # steps and calls of the anderson solver, as benchmarks/few_steps.py counts them
PHASES = {"replace": (10, 19), "concat": (30, 31)}  # a step of that kind, and how many there are


class Kind(NamedTuple):
    """A way to make variations."""

    name: str  # plain, inversion, official, or how features are kept
    keys: str = "all"  # of the exemplar that are read
    in_ram: bool = False  # whether what is kept lies there, and not on the GPU
    apart: bool = False  # whether the photo's row is a model call of its own

    def __str__(self) -> str:
        more = [f"{self.keys} keys"] * (self.keys != "all") + ["in RAM"] * self.in_ram
        more += ["apart"] * self.apart
        return ", ".join([self.name.replace("_", " "), *more])


INVERSION = Kind("inversion")  # one step of one row
OFFICIAL = Kind("official")  # one variation


class Cost(NamedTuple):
    """Of one step, weighted over the schedule."""

    phases: dict[str, float]  # median seconds
    peak: int | None  # bytes beside the model's and what is kept
    stored: int = 0  # bytes that all steps keep

    @property
    def seconds(self) -> float:
        return sum(self.phases[name] * count for name, (_, count) in PHASES.items()) / STEPS


def main() -> int:
    options = parse()
    return hosted.start(run, options, pytorch_attention=options.pytorch_attention)


def run(host, options: argparse.Namespace) -> None:
    import cost_table

    model = load(options)
    costs = measure(model, options)
    print(cost_table.heading(host, model, options), "", cost_table.steps(costs), "",
          cost_table.finished(costs, STEPS, STEPS), "", cost_table.finished(costs, *FAST),
          sep="\n")


def parse() -> argparse.Namespace:
    parser = hosted.parser_of(__doc__)
    parser.add_argument("--checkpoint", help="a checkpoint file; default: random weights")
    parser.add_argument("--family", choices=("sd15", "sdxl", "flux", "zimage"), default="sd15")
    parser.add_argument("--cfg", type=float, default=5.0, help="1: as distilled models (5)")
    parser.add_argument("--precision", choices=("float32", "float16", "bfloat16"),
                        help="of the random weights; default: float16 on a GPU, else float32")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (256)")
    parser.add_argument("--variations", type=int, nargs="+", default=[1, 4], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=4,
                        help="times each is measured, the first of several not counted (4)")
    parser.add_argument("--skip", nargs="+", default=[], metavar="ROW", help="rows not to measure")
    parser.add_argument("--pytorch-attention", action="store_true",
                        help="as ComfyUI does with --use-pytorch-cross-attention")
    parser.add_argument("--processor-time", action="store_true",
                        help="seconds of the processor, not the clock's: for a busy machine")
    return parser.parse_args()


def load(options: argparse.Namespace):
    import comfy.sd
    import seeded_models
    import torch

    if options.checkpoint:
        return comfy.sd.load_checkpoint_guess_config(options.checkpoint, output_clip=False)[0]
    precision = options.precision or ("float16" if torch.cuda.is_available() else "float32")
    return seeded_models.build(options.family, getattr(torch, precision))


def kinds(skipped: list[str]) -> list[Kind]:
    """How variations are made in batches; the official algorithm makes one at a time."""
    import torch

    cached = [Kind("live"), Kind("live", apart=True), Kind("cached"), Kind("cached_int8"),
              Kind("cached", keys="quarter")]
    if torch.cuda.is_available():
        cached += [Kind("cached", in_ram=True), Kind("cached_int8", in_ram=True)]
    chosen = [kind for kind in cached if str(kind) not in skipped]
    return [Kind("plain"), *chosen]


def measure(model, options: argparse.Namespace) -> dict[tuple[Kind, int], Cost]:
    """Of each kind at each batch size, all in turn, `rounds` times after a first uncounted one."""
    from meters import Meter
    from seeded_models import prompt_for, random_chain

    prompt, meter, side = prompt_for(model), Meter(options.processor_time), options.size // 8
    chain, runs, stored = random_chain(model, side, STEPS), {}, {}
    for kind in kinds(options.skip):
        chain = dataclasses.replace(chain)  # with a cache of its own
        if kind.name.startswith("cached"):
            for phase in PHASES:
                Run(model, kind, 1, chain, prompt, phase).measure(meter)
        stored[kind] = STEPS * chain.features.nbytes // len(PHASES)
        for n in options.variations:
            runs[kind, n] = {phase: Run(model, kind, n, chain, prompt, phase) for phase in PHASES}
    for kind in (INVERSION,) if chain.model.is_transformer else (INVERSION, OFFICIAL):
        runs[kind, 1] = {phase: Run(model, kind, 1, chain, prompt, phase) for phase in PHASES}
    for by_phase in runs.values():
        for run in by_phase.values():
            run.cfg = 1.0 if run.kind == INVERSION else options.cfg
    found = {key: {phase: [] for phase in PHASES} for key in runs}
    for _ in range(options.rounds):
        for (kind, n), by_phase in runs.items():
            for phase, run in by_phase.items():
                figures = run.measure(meter)
                found[kind, n][phase].append(figures)
                print(f"{n} x {kind}, {phase}: {figures[0]:.2f} s", file=sys.stderr, flush=True)
    return {key: summed(by_phase, stored.get(key[0], 0)) for key, by_phase in found.items()}


def summed(by_phase: dict, stored: int) -> Cost:
    """The median seconds and the highest peak of (seconds, bytes), the first round's left out."""
    by_phase = {phase: found[1:] or found for phase, found in by_phase.items()}
    medians = {phase: statistics.median(s for s, _ in found) for phase, found in by_phase.items()}
    peaks = [peak for found in by_phase.values() for _, peak in found if peak is not None]
    return Cost(medians, max(peaks, default=None), stored)


class Run:
    """One step of a kind."""

    def __init__(self, model, kind: Kind, n: int, chain, prompt, phase: str):
        place, _ = PHASES[phase]
        self.sigmas = chain.falling_sigmas()[place : place + 2]
        self.kind, self.prompt, self.cfg = kind, prompt, 5.0
        rows = 2 if kind == OFFICIAL else n  # guidance makes them twice as many
        self.shape = (rows, *chain.latents.shape[1:])
        self.model = patched(model, kind, chain, phase)

    def measure(self, meter) -> tuple[float, int | None]:
        """(seconds, peak bytes)"""
        import comfy.samplers
        import torch

        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(self.prompt, self.prompt)
        guider.set_cfg(self.cfg)
        sampler = comfy.samplers.KSAMPLER(metered(meter))
        noise = torch.randn(self.shape)
        with ram_only(self.kind.in_ram), own_call(self.kind.apart):
            guider.sample(noise, torch.zeros_like(noise), sampler, self.sigmas, disable_pbar=True)
        return meter.seconds, meter.peak


def metered(meter):
    """An Euler step as a sampler of ComfyUI's."""

    def step(model, x, sigmas, extra_args, callback=None, disable=None, **_):
        meter.start()
        d = (x - model(x, sigmas[:1].expand(len(x)), **extra_args)) / sigmas[0]
        moved = x + (sigmas[1] - sigmas[0]) * d
        meter.stop()
        return moved

    return step


def patched(model, kind: Kind, chain, phase: str):
    """The MODEL with which a kind samples."""
    from comfyui_rival.nodes.steering.run import align
    from comfyui_rival.rival_core.steering.exemplar import Exemplar

    if kind in (Kind("plain"), INVERSION):
        return model
    if kind == OFFICIAL:
        return aligned_officially(model, phase)
    return align(model, Exemplar(chain, features=kind.name, keys=kind.keys))


def aligned_officially(model, phase: str):
    """A MODEL whose every row reads keys as in the official batch of four rows."""
    import torch

    def read(n, context, value, extra_options):
        exemplar = context[[0, 0, 2, 2]]
        keys = exemplar if phase == "replace" else torch.cat([exemplar, context], dim=1)
        return n, keys, keys

    model = model.clone()
    model.set_model_attn1_patch(read)
    return model


def own_call(wanted: bool):
    """Inside it the photo's row does not ride in the image's call, though it could."""
    from contextlib import nullcontext
    from unittest import mock

    from comfyui_rival.nodes.steering import riding

    if not wanted:
        return nullcontext()
    return mock.patch.dict(riding.REASONS, {"the benchmark wants to compare": lambda asked: True})


def ram_only(wanted: bool):
    """Inside it features are kept in RAM, though the GPU has room for them."""
    from contextlib import nullcontext
    from unittest import mock

    from comfyui_rival.nodes import host

    if not wanted:
        return nullcontext()
    room = host.room_for_features
    return mock.patch.object(host, "room_for_features", lambda *args: room(*args)[-1:])


if __name__ == "__main__":
    sys.exit(main())
