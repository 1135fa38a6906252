"""Whether fewer steps, inverted exactly, make variations as good as the paper's 50 steps.

    python benchmarks/few_steps.py --model flow --scenes 24 --variations 2

The scenes, the model and what is measured are benchmarks/quality.py's. Every row inverts the same
scenes with its own steps and solver and varies them with RIVAL's defaults, and the gates that suit
the model; printed are the figures, how far each row is from the first scene by scene, and what a
variation costs in model rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import quality

# (steps, solver, iterations), the one that the others are compared with first
ROWS = [(50, "ddim", 1), (20, "anderson", 10), (20, "ddim", 1), (10, "anderson", 10),
        (10, "ddim", 1)]


def main() -> int:
    return quality.start(run, quality.parser_of(__doc__, scenes=24).parse_args())


def run(options: argparse.Namespace) -> None:
    import report
    import variations
    from render import render

    model, judge, clock = quality.prepared(options)
    scenes = quality.choose_scenes(options.scenes, "held-out", quality.FIRST_SEED)
    latents = model.encode(render(scenes))
    shown, figures, rival = model.decode(latents), {}, variations.rival(**model.gates)
    for steps, solver, iterations in ROWS:
        settings = variations.Settings(steps, options.cfg, options.variations, options.seed,
                                       variations.Solver(solver, iterations))
        cases = variations.make_cases(model, scenes, latents, settings)
        images = [model.decode(rival(model.quick, c, settings)) for c in cases]
        name = f"{steps} steps, `{solver}` ({cost(cases)})"
        figures[name] = report.measure(judge, scenes, shown, images)
        clock.say(name)
    print(f"{options.scenes} held-out scenes, {options.variations} variations of each by the "
          f"{options.model} model, cfg {options.cfg:g}: mean ± standard error over scenes.", "",
          report.table(figures), "", report.paired(figures, next(iter(figures))), sep="\n")


def cost(cases: list) -> str:
    """Model rows of the inversion, and of one variation after it at guidance."""
    calls = sum(int(case.chain.calls.sum()) for case in cases) / len(cases)
    return f"{calls:.0f} + {3 * (len(cases[0].sigmas) - 1)} rows"


if __name__ == "__main__":
    sys.exit(main())
