"""Which blocks of a network carry a photo's style and which its layout, and what a photo may cost.

    python benchmarks/layers.py --model flow --positions same

Every row lends the photo's keys in some blocks only, one or up to three in a row, all else being
RIVAL's defaults and the gates that suit the model; or it saves at the photo's own row. The scenes,
the model and what is measured are benchmarks/quality.py's. Features `cached` has no row: at the
chain's own noise levels it gives what `live` gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import quality

LONGEST = 3  # blocks in a row
GUIDED = (1.5, 2.5)  # guidance of the inversion
ALL = "all blocks"


def main() -> int:
    parser = quality.parser_of(__doc__, scenes=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--positions", choices=("beside", "shuffled", "same"), default="beside",
                        help="where the photo lies (beside); of the flow model")
    parser.add_argument("--normalize-end", type=float, default=0.4,
                        help="0 leaves the colours to the keys alone (0.4)")
    return quality.start(run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    import report
    import variations
    from render import render

    model, judge, clock = quality.prepared(options)
    settings = variations.Settings(options.steps, options.cfg, options.variations, options.seed)
    scenes = quality.choose_scenes(options.scenes, "held-out", quality.FIRST_SEED)
    latents = model.encode(render(scenes))
    shown, figures = model.decode(latents), {}

    def measure(name: str, make: Callable, cases: Sequence) -> None:
        images = [model.decode(make(model.quick, case, settings)) for case in cases]
        figures[name] = report.measure(judge, scenes, shown, images)
        clock.say(name)

    cases = variations.make_cases(model, scenes, latents, settings)
    measure(report.PLAIN, variations.plain, cases)
    gates = {**model.gates, "normalize_end": options.normalize_end}
    made = rows(model.quick.layers, options.positions, gates)
    for name, make in made.items():
        measure(name, make, cases)
    for cfg in GUIDED:
        guided = variations.make_cases(model, scenes, latents, settings, cfg)
        measure(f"inverted at cfg {cfg:g}", made[ALL], guided)
    print(f"{options.scenes} held-out scenes, {options.variations} variations of each by the "
          f"{options.model} model, {options.steps} steps, cfg {options.cfg:g}, positions "
          f"{options.positions}, normalize_end {options.normalize_end:g}: mean ± standard error "
          "over scenes.", "", report.table(figures), "", report.paired(figures, ALL), sep="\n")


def rows(layers: Mapping, positions: str, gates: Mapping[str, float]) -> dict[str, Callable]:
    """RIVAL in all blocks, in none, in contiguous groups of them; then with a cheaper photo."""
    import cheaper_photo
    import variations

    def rival(chosen: Sequence | None = None, **changed: float) -> Callable:
        layers = None if chosen is None else frozenset(chosen)
        return variations.rival("shuffle", positions, layers, **{**gates, **changed})

    blocks = list(layers)
    lengths = range(1, min(LONGEST, len(blocks) - 1) + 1)
    groups = [(first, length) for length in lengths for first in range(len(blocks) - length + 1)]
    return {
        ALL: rival(),
        "no block": rival(inject_end=0.0),
        **{name_of(first, length): rival(blocks[first:first + length]) for first, length in groups},
        "the photo at every second step": cheaper_photo.at_every_second_step(rival()),
        "the photo in int8": cheaper_photo.in_int8(rival()),
    }


def name_of(first: int, length: int) -> str:
    """`block 2`, `blocks 2 to 4`, counted from 1."""
    return f"block {first + 1}" if length == 1 else f"blocks {first + 1} to {first + length}"


if __name__ == "__main__":
    sys.exit(main())
