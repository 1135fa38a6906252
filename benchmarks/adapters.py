"""Do a LoRA and a ControlNet do their work while RIVAL steers? On the demo model and its adapters.

    python benchmarks/adapters.py --count 2

Runs the templates of a concept and of a ControlNet with the adapter and with its strength at 0,
all else the same, and measures the pictures. Needs a ComfyUI.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("harness", "tools", "demo", "demo/model")]

import applications

LAYOUT, CONCEPT = "3 Style on a layout (ControlNet)", "3 Style with a concept (LoRA)"
PAPER = {("RivalInvert", 0): 50, ("RivalInvert", 2): "ddim", ("RivalInvert", 8): "live",
         ("RivalPatchModel", 6): "live"}
OFF = {("LoraLoader", 1): 0.0, ("LoraLoader", 2): 0.0, ("ControlNetApplyAdvanced", 0): 0.0}
HEART_SHARE = 0.08  # of a flower that passes for one; in a drawn one it is 0.19
STRUCTURES = ((3, "square"), (1, "triangle"), (2, "circle"), (1, "ring"))
LOOKS = ((2, "green", "dotted"), (2, "blue", "plain"), (1, "white", "striped"),
         (3, "purple", "shaded"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4, help="of photos, at four pictures each")
    parser.add_argument("--only", nargs="+", default=[LAYOUT, CONCEPT], metavar="TEMPLATE")
    options = parser.parse_args()
    host = applications.ready(__file__)
    measured = {LAYOUT: (layouts, overlap), CONCEPT: (photos, flowers)}
    with applications.serving(host, options.only) as pictures:
        for name in options.only:
            cases, score = measured[name]
            measure(name, pictures, cases(options.count), score)
    return 0


def measure(name: str, pictures, cases, score) -> None:
    """Prints the mean over photos, and its standard error, with the adapter and without."""
    import torch

    for said, widgets in (("with", {}), ("without", OFF)):
        cases = [replace(case, widgets=PAPER | widgets) for case in cases]
        scores = torch.tensor([score(case, stack(pictures(name, case))) for case in cases])
        error = scores.std() / len(scores) ** 0.5
        print(f"{name} {said} the adapter: {score.__doc__} {scores.mean():.2f} ± {error:.2f}"
              f" ({len(scores)} photos)", flush=True)


def layouts(count: int) -> list:
    """One photo's look, a structure's layout and a caption that says which shapes."""
    from application_scenes import RINGS, Application, photo, said

    look = photo(7, *RINGS)
    return [Application([look, photo(30 + i, number, "white", kind, "black", "plain")],
                        {"What the new": said(number, "purple", kind, "yellow", "dotted")})
            for i, (number, kind) in enumerate(STRUCTURES[:count])]


def photos(count: int) -> list:
    from application_scenes import Application, photo, said
    from concept import draw

    return [Application([photo(40 + i, number, "red", "star", *rest, drawn=draw)],
                        {"What the new": said(number, "red", "star", *rest)})
            for i, (number, *rest) in enumerate(LOOKS[:count])]


def overlap(case, images) -> float:
    """overlap of the shapes with the structure's (IoU)"""
    import measures
    from scenes import make_scene

    look, structure = case.photos
    style = make_scene(look.seed, look.attributes).style
    wanted = stack([structure.picture.convert("RGB")]).mean(1) > 0.5
    shapes = measures.foreground(images, style.color, style.background, style.second)
    return measures.overlap(shapes, wanted).mean().item()


def flowers(case, images) -> float:
    """share of pictures with a flower"""
    import torch
    from concept import HEART_COLOR, PETAL_COLOR
    from measures import oklab
    from scenes import make_scene

    style = make_scene(case.photos[0].seed, case.photos[0].attributes).style
    colors = [HEART_COLOR, PETAL_COLOR, style.background, style.second]
    wanted = oklab(torch.tensor(colors)[..., None, None])  # [4, 3, 1, 1]
    nearest = (oklab(images)[:, None] - wanted).norm(dim=2).argmin(1)
    hearts, petals = ((nearest == i).sum((1, 2)).float() for i in (0, 1))
    return (hearts / (hearts + petals).clamp(min=1) > HEART_SHARE).float().mean().item()


def stack(images):
    """Pictures of 128 px as [n, 3, 128, 128] in 0..1."""
    import numpy
    import torch

    arrays = numpy.stack([numpy.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).movedim(-1, 1).float() / 255


if __name__ == "__main__":
    sys.exit(main())
