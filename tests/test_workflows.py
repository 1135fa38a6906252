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
    """The prompt with few steps on small pictures."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        small = {"megapixels": 0.01, "steps": min(STEPS, node["inputs"].get("steps", STEPS))}
        small["iterations"] = min(3, node["inputs"].get("iterations", 3))
        if node["class_type"] == "EmptyLatentImage":
            small |= {"width": 96, "height": 64}
        node["inputs"].update({k: v for k, v in small.items() if k in node["inputs"]})
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
        if path.stem == "inpainting":
            assert_only_the_middle_differs(images)


def assert_only_the_middle_differs(images):
    """Four fillings of the hole that the photo has in its middle, one photo around them."""
    height, width = images.shape[1:3]
    spread = (images.max(axis=0).astype(int) - images.min(axis=0)).max(axis=-1)
    assert spread[: height // 8].max() <= 1 and spread[:, : width // 8].max() <= 1
    middle = spread[3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8]
    assert middle.mean() > 5


@pytest.mark.host
def test_the_template_browser_lists_and_serves_workflows(server):
    listed = server.get_json("/workflow_templates")[PACK_NAME]
    assert sorted(listed) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        served = server.get_json(f"/api/workflow_templates/{PACK_NAME}/{path.name}")
        assert served == load(path)
