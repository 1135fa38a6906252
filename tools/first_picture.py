"""Draws the README's first picture: exemplars, RIVAL's variations, and what comes without it.

    python tools/first_picture.py --model flow

The demo's three scenes, whose captions its models were never taught, by either of them, without a
ComfyUI; a row for each. The prompts are empty, so that all that pictures have in common with their
exemplar is RIVAL's; --captioned takes the scene's caption. Leaves `docs/variations.jpg`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("benchmarks", "demo", "demo/model")]

import quality

FILE = REPO / "docs" / "variations.jpg"


def main() -> int:
    parser = quality.parser_of(__doc__, scenes=3)
    parser.set_defaults(variations=3)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--captioned", action="store_true")
    return quality.start(draw, parser.parse_args())


def draw(options: argparse.Namespace) -> None:
    import exemplars
    import picture
    import variations
    from render import render
    from scenes import make_scene

    model = quality.demo_model(options)
    scenes = [make_scene(seed) for seed in exemplars.SCENES[:options.scenes]]
    shown = render(scenes)
    settings = variations.Settings(cfg=options.cfg, count=options.variations, seed=options.seed)
    cases = variations.make_cases(model, scenes, model.encode(shown), settings,
                                  captioned=options.captioned)
    made = [[model.decode(make(model.quick, case, settings)) for case in cases]
            for make in (variations.rival(**model.gates), variations.plain)]
    page = picture.rows(scenes, shown, *made, options.captioned)
    page.save(options.out, quality=90, optimize=True)
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
