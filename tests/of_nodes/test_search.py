"""The words that people look for a node by, in hosts that find nodes by other names, too.

There a node of another's that is used more often goes before ours, whatever it is called; a word
that is no alias of ours finds none of them.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.host

FOUND = {
    "RivalInvert": ["invert", "inversion", "ddim", "ddim inversion", "unsampler", "photo"],
    "RivalPatchModel": ["variation", "similar", "clone", "reference", "style", "style transfer",
                        "image prompt", "ipadapter", "photo"],
    "RivalKSampler": ["variation", "image variation", "similar", "img2img", "img to img",
                      "image to image", "inpaint"],
    "RivalEdit": ["edit", "img2img", "image to image", "flowedit"],
    "RivalReconstruct": ["reconstruction"],
    "RivalBlendedGuidance": ["local edit"],
    "RivalPull": ["rf inversion"],
    "RivalSaveChain": ["save inversion"],
    "RivalLoadChain": ["load inversion"],
    "RivalChoose": ["choose", "select", "compare images"],
}


@pytest.fixture(scope="module")
def schemas() -> dict:
    from comfyui_rival.nodes import NODES

    found = {node.__name__: node.define_schema() for node in NODES}
    if not hasattr(found["RivalInvert"], "search_aliases"):
        pytest.skip("this host finds nodes by their names alone")
    return found


def test_every_word_finds_its_node(schemas):
    missing = {(node, word) for node, words in FOUND.items() for word in words
               if word not in schemas[node].search_aliases}
    assert missing == set()


def test_aliases_are_lower_case_and_said_once(schemas):
    for schema in schemas.values():
        aliases = schema.search_aliases
        assert aliases and len(aliases) == len(set(aliases))
        assert all(alias == alias.lower().strip() for alias in aliases)
