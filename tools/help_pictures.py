"""Makes the pictures of the help pages, on the demo model.

    python tools/help_pictures.py --only RivalPatchModel RivalKSampler

Each is a template, filled in as tools/applications.py does, run once for every picture in it:
one photo, one seed, and one setting that changes. Leaves `web/docs/<node id>.jpg`. Needs a
ComfyUI. Pages without a run show their node, from the screenshots that the tests leave.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

from applications import connected, prompt_of, ready, shown, with_model

DOCS = REPO / "web" / "docs"
SCREENSHOTS = REPO / ".cache" / "screenshots"
DRAWN = ("RivalSaveChain", "RivalLoadChain")  # the pages that show their node
JPEG = {"quality": 80, "optimize": True, "progressive": True}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NODE", help="by the nodes' ids")
    parser.add_argument("--out", type=Path, default=DOCS, help="a folder for the pictures")
    options = with_model(parser).parse_args()
    host = ready(__file__)
    from help_page import page
    from help_scenes import PICTURES

    wanted = options.only or [*PICTURES, *DRAWN]
    chosen = {node: PICTURES[node] for node in wanted if node in PICTURES}
    templates = {picture.template for picture in chosen.values()}
    with connected(host, templates) as (client, base):
        info = client.object_info()
        for node, picture in chosen.items():
            print(node, flush=True)
            runs = Runs(client, info, base, picture, options.model)
            rows = [(row, [runs.result(cell) for cell in row.cells]) for row in picture.rows]
            page(rows, picture.pieces).save(options.out / f"{node}.jpg", **JPEG)
    for node in (name for name in wanted if name in DRAWN):
        save_screenshot(node, options.out)
    return 0


class Runs:
    """One picture's graph, run with this setting and that; the same run is made once."""

    def __init__(self, client, info: dict, base: Path, picture, model: str | None):
        self.client = client
        self.reference = picture.reference
        self.photo = picture.application.photos[0].picture.convert("RGB")
        application = picture.application.by(model)
        prompt = prompt_of(client, info, base, picture.template, application)
        prompt = picture.rewire(prompt) if picture.rewire else prompt
        self.prompt = changed(prompt, picture.changes)
        self.done: dict[str, tuple] = {}

    def result(self, cell):
        """What a cell of the page shows."""
        from help_page import Result, amplified

        if not cell.output:
            return Result(self.photo, cell.label)
        image, text = self.run(cell)
        if cell.difference:
            image = amplified(image, self.run(self.reference)[0])
        return Result(image, f"{cell.label}\n{figures(text)}" if cell.measured else cell.label)

    def run(self, cell) -> tuple:
        """(the picture that the cell's output node leaves, RIVAL Reconstruct's words)."""
        prompt = changed(self.prompt, cell.changes)
        output = next(i for i, node in prompt.items() if node["class_type"] == cell.output)
        prompt = behind(prompt, output)
        key = json.dumps(prompt, sort_keys=True)
        if key not in self.done:
            print(f"  {cell.label}", flush=True)
            outcome = self.client.run(prompt)
            ways = (i for i, node in prompt.items() if node["class_type"] == "RivalReconstruct")
            text = "\n".join(outcome.text(i) for i in ways)
            self.done[key] = shown(self.client, outcome, output)[0], text
        return self.done[key]


def changed(prompt: dict, changes: Mapping[tuple[str, str], object]) -> dict:
    """A prompt with other values, by (a node's type or title, input's name)."""
    prompt = copy.deepcopy(prompt)
    for (kind, name), value in changes.items():
        for node in prompt.values():
            if kind in (node["class_type"], node.get("_meta", {}).get("title")):
                node["inputs"][name] = value
    return prompt


def behind(prompt: dict, output: str) -> dict:
    """The part of a prompt that one node needs."""
    needed, found = {}, [output]
    while found:
        node = found.pop()
        needed[node] = prompt[node]
        links = (value for value in prompt[node]["inputs"].values() if isinstance(value, list))
        found += [source for source, _ in links if source not in needed]
    return needed


def figures(text: str) -> str:
    """`9.0e-3, 27.7 dB` out of what RIVAL Reconstruct says: of the latent, and of the picture."""
    relative = float(re.search(r"relative ([\d.e+-]+)", text)[1])
    decibels = re.findall(r"PSNR ([\d.]+) dB", text)[-1]
    return f"{relative:.0e}, {decibels} dB".replace("e-0", "e-")


def save_screenshot(node: str, out: Path) -> None:
    """The node as the newest host's editor draws it."""
    from PIL import Image

    found = sorted(SCREENSHOTS.glob(f"*/nodes-2.0-light/{node}.png"))
    if not found:
        print(f"{node}: no screenshot; tests/test_screenshots.py makes one", file=sys.stderr)
        return
    Image.open(found[-1]).convert("RGB").save(out / f"{node}.jpg", **JPEG)


if __name__ == "__main__":
    sys.exit(main())
