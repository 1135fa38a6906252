"""Photographs ComfyUI's editor for the README: templates, the first of them, run, and a help page.

    python tools/editor_pictures.py

In a small window, with the demo's scene as the photo and its model in the checkpoint's place.
Leaves `templates.jpg`, `graph.jpg` and `help.jpg` in `docs`. Needs a ComfyUI, the newest, and
Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / folder) for folder in ("harness", "tests/support")]

from applications import PACK_NAME, place_models, read, ready
from editor import CHOOSE, SETTINGS, Editor

DOCS = REPO / "docs"
SIZE = {"width": 1366, "height": 768}
HELP = {"width": 1800, "height": 840}  # its right end is shown; the panel is a share of it
LIGHTER = {"type": "jpeg", "quality": 85}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS, help="a folder for the pictures")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE.values(), help="of the window")
    options = parser.parse_args()
    host = ready(__file__)
    from application_scenes import APPLICATIONS, VARIATION

    application = APPLICATIONS[VARIATION]
    window = dict(zip(SIZE, options.size))
    with served(host, VARIATION, application) as address, opened(address, window) as editor:
        dialog = editor.browse_templates(PACK_NAME)
        dialog.get_by_role("combobox", name="Sort by").click()  # else as the disk has them
        editor.page.get_by_text("A → Z", exact=True).click()
        editor.page.wait_for_timeout(3000)  # until its pictures are there
        editor.page.screenshot(path=options.out / "templates.jpg", **LIGHTER)
        editor.page.keyboard.press("Escape")
        editor.load(application.fill(copy.deepcopy(read(VARIATION))))
        editor.run(pictures=1, timeout=600)
        editor.page.wait_for_timeout(2000)
        editor.page.screenshot(path=options.out / "graph.jpg", **LIGHTER)
        show_help(editor, "RivalKSampler")
        right = {"x": HELP["width"] - 800, "y": 40, "width": 800, "height": HELP["height"] - 40}
        editor.page.screenshot(path=options.out / "help.jpg", clip=right, **LIGHTER)
    return 0


def show_help(editor, node_type: str) -> None:
    """A node, chosen, and its page in the panel beside it."""
    editor.look(nodes_2=True, palette="dark")
    editor.page.set_viewport_size(HELP)
    editor.add(node_type)
    editor.centre(node_type, scale=1.0)
    editor.page.evaluate("() => { app.canvas.ds.offset[0] += 340 }")  # beside the panel
    editor.page.evaluate("() => app.canvas.selectNode(app.graph.nodes[0])")
    editor.page.evaluate(CHOOSE, {"Comfy.RightSidePanel.IsOpen": True})
    editor.page.get_by_role("tab", name="Info").click()
    editor.page.wait_for_timeout(3000)  # until its pictures are there


@contextlib.contextmanager
def served(host, template: str, application) -> Iterator[str]:
    """The address of a host with the demo model, and the application's photos in its input."""
    import comfy_process
    import frontend

    with tempfile.TemporaryDirectory(prefix="rival-editor-") as folder:
        base, python = Path(folder), Path(sys.executable)
        comfy_process.prepare(base, PACK_NAME)
        place_models(base / "models", [template])
        for file, picture in application.files().items():
            picture.convert("RGB").save(base / "input" / file)
        pages = frontend.static_files(python, host)
        with comfy_process.running(host, python, base, ["--force-fp32"], frontend=pages) as client:
            yield client.address


@contextlib.contextmanager
def opened(address: str, window: dict) -> Iterator:
    import frontend
    from playwright.sync_api import sync_playwright

    SETTINGS["Comfy.RightSidePanel.IsOpen"] = False
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(
            executable_path=frontend.find_browser(), args=arguments
        )
        yield Editor(browser.new_page(viewport=window), f"http://{address}").open(False, "dark")
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
