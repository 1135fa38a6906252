"""A pytest plugin: the host's own frontend in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import frontend
import pytest
from editor import Editor

WINDOW = {"width": 1400, "height": 900}
RENDERERS = ("classic", "nodes 2.0")
FINISHED = (1, 49)  # in 1.27, of ComfyUI 0.3.64, Nodes 2.0 is an experiment that lacks widgets


@dataclass
class Browser:
    """A Chromium and the one page that all tests look at: to open it costs seconds."""

    chromium: object
    editor: Editor | None = None

    def at(self, address: str) -> Editor:
        if self.editor is None:
            page = self.chromium.new_context(viewport=WINDOW).new_page()
            self.editor = Editor(page, f"http://{address}").open()
            assert self.editor.our_errors() == []
        return self.editor


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Of its tests alone, which come last: it holds an event loop that no others must run in."""
    path = frontend.find_browser()
    if path is None:
        pytest.skip("no Chromium was found")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield Browser(chromium)
        chromium.close()


def is_old(host) -> bool:
    """Whether the host's frontend is one of those without a finished Nodes 2.0."""
    version = frontend.pinned(host).rpartition("=")[2].split(".")[:2]
    return tuple(map(int, version)) < FINISHED


@contextmanager
def opened(browser, server, host, renderer: str = "classic", palette: str = "dark",
           window: dict = WINDOW) -> Iterator:
    """An empty editor in one of the renderers; the pack leaves no error in the console."""
    if renderer == "nodes 2.0" and is_old(host):
        pytest.skip(f"Nodes 2.0 is an experiment in {frontend.pinned(host)}")
    editor = browser.at(server.address)
    editor.page.set_viewport_size(window)
    yield editor.look(renderer == "nodes 2.0", palette)
    assert editor.our_errors() == []


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, browser, server, host) -> Iterator[Editor]:
    """An editor in each of the renderers."""
    with opened(browser, server, host, request.param) as editor:
        yield editor
