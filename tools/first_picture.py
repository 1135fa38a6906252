"""Draws the README's first picture: exemplars, RIVAL's variations, and what comes without it.

    python tools/first_picture.py
    python tools/first_picture.py --empty --model unet --out docs/empty_prompts.jpg

A row for each of three scenes whose captions the demo's models were never taught, without a
ComfyUI: of the quality benchmark's, those whose colours the caption alone misses by most. With
--empty the demo's scenes and empty prompts, so that all that pictures have in common with their
exemplar is RIVAL's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("benchmarks", "demo", "demo/model")]

import quality

FILE = REPO / "docs" / "variations.jpg"
OUT_OF = 24  # scenes, as many as docs/quality.md measures


def main() -> int:
    parser = quality.parser_of(__doc__, scenes=3)
    parser.set_defaults(variations=3, model="flow")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--empty", action="store_true", help="no words in the prompts")
    return quality.start(draw, parser.parse_args())


def draw(options: argparse.Namespace) -> None:
    import exemplars
    import picture
    import variations
    from render import render
    from scenes import make_scene

    model = quality.demo_model(options)
    settings = variations.Settings(cfg=options.cfg, count=options.variations, seed=options.seed)
    if options.empty:
        scenes = [make_scene(seed) for seed in exemplars.SCENES[:options.scenes]]
    else:
        scenes = quality.choose_scenes(OUT_OF, "held-out", quality.FIRST_SEED)
    shown = render(scenes)
    latents = model.encode(shown)
    cases = variations.make_cases(model, scenes, latents, settings, captioned=not options.empty)
    plain = [model.decode(variations.plain(model.quick, case, settings)) for case in cases]
    far = range(len(scenes)) if options.empty else furthest(plain, model.decode(latents))
    rows = far[:options.scenes]
    rival = variations.rival(**model.gates)
    made = [model.decode(rival(model.quick, cases[row], settings)) for row in rows]
    page = picture.rows([scenes[row] for row in rows], shown[[*rows]], made,
                        [plain[row] for row in rows], not options.empty)
    page.save(options.out, quality=90, optimize=True)
    print(options.out)


def furthest(images: Sequence, exemplars: Sequence) -> list[int]:
    """The exemplars' numbers, first those from whose palette their images are furthest."""
    from comfyui_rival.rival_core.choosing.measures import palette_distance

    far = [float(palette_distance(of_one, exemplar).mean())
           for of_one, exemplar in zip(images, exemplars)]
    return sorted(range(len(far)), key=far.__getitem__, reverse=True)


if __name__ == "__main__":
    sys.exit(main())
