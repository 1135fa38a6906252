"""Every example workflow fits the registered nodes, converts, and runs on a headless ComfyUI."""

from __future__ import annotations

import copy
import json

import pytest
import workflow
from serving import PACK_NAME, WORKFLOWS, pictures

STEPS = 6

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def quick(prompt: dict) -> dict:
    """The prompt with few steps on a small picture."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name, value in (("steps", STEPS), ("megapixels", 0.01)):
            if name in node["inputs"]:
                node["inputs"][name] = value
    return prompt


def test_there_is_a_variation_workflow():
    assert "variation" in [path.stem for path in WORKFLOWS]


@every_workflow
def test_workflow_has_a_picture(path):
    assert any(path.with_suffix(kind).exists() for kind in (".jpg", ".png"))


@every_workflow
def test_workflow_is_laid_out_without_overlaps(path):
    boxes = {node["id"]: (*node["pos"], *node["size"]) for node in load(path)["nodes"]}
    title = 30  # above a node's position
    for a, (ax, ay, aw, ah) in boxes.items():
        for b, (bx, by, bw, bh) in boxes.items():
            apart = ax + aw <= bx or bx + bw <= ax or ay + ah <= by - title or by + bh <= ay - title
            assert a == b or apart, f"nodes {a} and {b} overlap"


@every_workflow
def test_workflow_tells_what_to_change(path):
    assert workflow.NOTES & {node["type"] for node in load(path)["nodes"]}


@pytest.mark.host
@every_workflow
def test_workflow_fits_the_registered_nodes(path, object_info):
    assert workflow.problems(load(path), object_info) == []


@pytest.mark.host
@every_workflow
def test_workflow_stores_every_widget_of_our_nodes(path, object_info):
    """A core node may have fewer widgets on an older host; ours are the same on all."""
    for node in load(path)["nodes"]:
        if node["type"].startswith("Rival"):
            widgets = [i for i in workflow.inputs_of(object_info[node["type"]]) if i.is_widget]
            expected = len(widgets) + sum(widget.has_companion for widget in widgets)
            assert len(node.get("widgets_values", [])) == expected, node["type"]


@pytest.mark.host
@every_workflow
def test_workflow_runs(path, server, object_info):
    prompt = quick(workflow.to_prompt(load(path), object_info))
    outcome = server.run(prompt)
    savers = workflow.find(prompt, "SaveImage")
    assert savers
    for saver in savers:
        images = pictures(server, outcome, saver)
        assert images.shape[3] == 3 and images.std() > 5


@pytest.mark.host
def test_the_template_browser_lists_and_serves_workflows(server):
    listed = server.get_json("/workflow_templates")[PACK_NAME]
    assert sorted(listed) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        served = server.get_json(f"/api/workflow_templates/{PACK_NAME}/{path.name}")
        assert served == load(path)
