"""What a ComfyUI tells its clients about the pack: nodes, help, web files."""

from __future__ import annotations

import golden
import pytest
import workflow
from golden import NODES
from serving import PACK_NAME, REPO

pytestmark = pytest.mark.host

every_node = pytest.mark.parametrize("node", NODES)


def test_all_nodes_and_no_others_are_registered(object_info):
    assert {name for name in object_info if name.startswith("Rival")} == set(NODES)


@every_node
def test_node_is_described(node, object_info):
    info = object_info[node]
    assert len(info["description"]) > 40
    assert info["category"].split("/")[0] == "RIVAL"
    assert info["display_name"].startswith("RIVAL ")


@every_node
def test_every_input_and_output_has_a_tooltip(node, object_info):
    info = object_info[node]
    without = [i.name for i in workflow.inputs_of(info) if not i.options.get("tooltip")]
    assert without == []
    assert info["output_tooltips"] and all(info["output_tooltips"])


def test_expert_widgets_are_advanced(object_info):
    advanced = {
        (node, i.name)
        for node in NODES
        for i in workflow.inputs_of(object_info[node])
        if i.options.get("advanced")
    }
    assert ("RivalInvert", "cfg") in advanced
    assert ("RivalKSampler", "seed") not in advanced


def test_golden_schema(object_info):
    """Shared workflows hold widget values by position: see golden.py before changing one."""
    current = {node: golden.contract(object_info[node]) for node in NODES}
    expected = golden.stored(current)
    assert list(current) == list(expected)
    for node in NODES:
        assert golden.without_choices(current[node]) == golden.without_choices(expected[node])
        assert golden.missing_choices(expected[node], current[node]) == set()


def test_web_folder_is_served(server):
    """Help pages and scripts, if the pack has any."""
    for file in sorted((REPO / "web").rglob("*")) if (REPO / "web").exists() else []:
        if file.is_file():
            path = file.relative_to(REPO / "web").as_posix()
            assert server.get(f"/extensions/{PACK_NAME}/{path}") == file.read_bytes()
