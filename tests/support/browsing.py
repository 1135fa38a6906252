"""A pytest plugin: the host's own frontend in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import frontend
import pytest
from editor import Editor

WINDOW = {"width": 1400, "height": 900}
RENDERERS = ("classic", "nodes 2.0")
FINISHED = (1, 49)  # in 1.27, of ComfyUI 0.3.64, Nodes 2.0 is an experiment that lacks widgets


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Of a module's life only: it holds an event loop that other tests must not run in."""
    path = frontend.find_browser()
    if path is None:
        pytest.skip("no Chromium was found")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser, server, host, renderer: str = "classic", palette: str = "dark") -> Iterator:
    """An editor in one of the renderers; the console holds no error of the pack at the end."""
    version = tuple(map(int, frontend.pinned(host).rpartition("=")[2].split(".")[:2]))
    if renderer == "nodes 2.0" and version < FINISHED:
        pytest.skip(f"Nodes 2.0 is an experiment in {frontend.pinned(host)}")
    context = browser.new_context(viewport=WINDOW)
    editor = Editor(context.new_page(), f"http://{server.address}")
    yield editor.open(renderer == "nodes 2.0", palette)
    context.close()
    assert editor.our_errors() == []


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, browser, server, host) -> Iterator[Editor]:
    """An editor in each of the renderers."""
    with opened(browser, server, host, request.param) as editor:
        yield editor
