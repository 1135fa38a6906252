"""Photographs templates in the host's own editor: the picture of those that no small model can run.

    python tools/template_graphs.py --only variation_flux few_steps_z_image

Each is opened in a headless browser, with the demo's scene as its photo; nothing is run. Leaves
`example_workflows/<template>.jpg`. Needs a ComfyUI, the newest, and Chromium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from io import BytesIO
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("harness", "tests/support")]

from applications import PACK_NAME, TEMPLATES, read, ready

MARGIN, TITLE = 30, 60  # around the graph, and above it for its groups' names
WIDTH = 1600  # pixels
SHOW = """([left, top, scale]) => {
    const view = app.canvas;
    view.ds.scale = scale;
    view.ds.offset[0] = -left;
    view.ds.offset[1] = -top;
    view.setDirty(true, true);
}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEMPLATE", required=True)
    parser.add_argument("--out", type=Path, default=TEMPLATES, help="a folder for the pictures")
    options = parser.parse_args()
    host = ready(__file__)
    import comfy_process
    import frontend
    from application_scenes import APPLICATIONS

    with tempfile.TemporaryDirectory(prefix="rival-graphs-") as folder:
        base, python = Path(folder), Path(sys.executable)
        comfy_process.prepare(base, PACK_NAME)
        place_models(base / "models", options.only)
        (photo,) = APPLICATIONS["variation"].files().values()
        photo.convert("RGB").save(base / "input" / "example.png")
        pages = frontend.static_files(python, host)
        with comfy_process.running(host, python, base, frontend=pages) as client:
            for name, picture in pictures(client.address, options.only):
                picture.save(options.out / f"{name}.jpg", quality=85, optimize=True)
                print(name, picture.size, flush=True)
    return 0


def place_models(models: Path, names: list[str]) -> None:
    """Empty files under every name that the templates ask for, so that none is missing."""
    from serving import files_of

    for file in {file for name in names for file in files_of(read(name))}:
        (models / file).parent.mkdir(parents=True, exist_ok=True)
        (models / file).touch()


def pictures(address: str, names: list[str]):
    import frontend
    from editor import Editor
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(
            executable_path=frontend.find_browser(), args=arguments
        )
        window = {"width": WIDTH, "height": WIDTH}
        editor = Editor(browser.new_page(viewport=window), f"http://{address}").open(False, "dark")
        editor.command("Workspace.ToggleFocusMode")
        for name in names:
            workflow = read(name)
            editor.load(workflow)
            left, top, right, bottom = outline(workflow)
            scale = WIDTH / (right - left)
            editor.page.evaluate(SHOW, [left, top, scale])
            editor.page.wait_for_timeout(1500)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": round(scale * (bottom - top))}
            yield name, Image.open(BytesIO(editor.page.screenshot(clip=clip))).convert("RGB")
        browser.close()


def outline(workflow: dict) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a graph, with its margin."""
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    boxes += [tuple(group["bounding"]) for group in workflow["groups"]]
    return (
        min(x for x, *_ in boxes) - MARGIN, min(y for _, y, *_ in boxes) - TITLE,
        max(x + width for x, _, width, _ in boxes) + MARGIN,
        max(y + height for _, y, _, height in boxes) + MARGIN,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
