"""Every node of the pack, drawn by both renderers of the host's own frontend.

The pictures are left in .cache/screenshots, to be looked at.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from browsing import RENDERERS, opened
from golden import NODES
from serving import REPO

pytestmark = [pytest.mark.host, pytest.mark.sampled]


STYLES = list(zip(RENDERERS, ("dark", "light")))


@pytest.fixture(scope="module", params=STYLES, ids="-".join)
def page(request, browser, server, host):
    with opened(browser, server, host, *request.param) as editor:
        yield editor


@pytest.fixture
def folder(host, request) -> Path:
    style = "-".join(request.node.callspec.params["page"]).replace(" ", "-")
    return REPO / ".cache" / "screenshots" / host.version / style


@pytest.mark.parametrize("node", NODES)
def test_node_is_drawn(page, folder, node):
    from PIL import Image, ImageStat

    page.add(node)
    page.centre(node, scale=1.4)
    folder.mkdir(parents=True, exist_ok=True)
    picture = page.page.screenshot(clip=page.outline(node))
    (folder / f"{node}.png").write_bytes(picture)
    assert max(ImageStat.Stat(Image.open(io.BytesIO(picture)).convert("RGB")).stddev) > 5
