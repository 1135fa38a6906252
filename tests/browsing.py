"""A pytest plugin: the host's own frontend in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import frontend
import pytest
from editor import Editor

WINDOW = {"width": 1400, "height": 900}


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
def page_of(browser, server) -> Iterator[Editor]:
    context = browser.new_context(viewport=WINDOW)
    yield Editor(context.new_page(), f"http://{server.address}")
    context.close()


@pytest.fixture(scope="module")
def open_editor(browser, server) -> Iterator[Editor]:
    """One page for a whole module."""
    with page_of(browser, server) as editor:
        yield editor.open()
