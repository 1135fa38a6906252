"""Every template fits the registered nodes, converts, runs headless and opens in the browser."""

from __future__ import annotations

from urllib.parse import quote

import layout
import pytest
import workflow
from browsing import opened
from serving import PACK_NAME, WORKFLOWS, listed_chains, pictures
from templates import LIBRARY, VARIATION, lacking, load, quick


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def path(request):
    """Of the module's scope, so that the tests of one workflow run next to each other."""
    return request.param


@pytest.fixture
def served(path, object_info):
    """The workflow, if this host has what it needs."""
    if missing := lacking(load(path), object_info):
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    return path


def quick_prompt(path, object_info) -> dict:
    return quickened(load(path), object_info)


def quickened(flow: dict, object_info) -> dict:
    prompt = workflow.to_prompt(flow, object_info)
    for node in prompt.values():
        node["inputs"] |= quick(node)
    return prompt


@pytest.mark.host
def test_workflow_fits_the_registered_nodes(served, object_info):
    assert workflow.problems(load(served), object_info) == []


@pytest.mark.host
def test_workflow_stores_every_widget_of_our_nodes(path, object_info):
    """A core node may have fewer widgets on an older host; ours are the same on all."""
    for node in load(path)["nodes"]:
        if node["type"].startswith("Rival"):
            widgets = [i for i in workflow.inputs_of(object_info[node["type"]]) if i.is_widget]
            expected = len(widgets) + sum(widget.has_companion for widget in widgets)
            assert len(node.get("widgets_values", [])) == expected, node["type"]


@pytest.mark.host
def test_workflow_runs(path, served, server, object_info):
    prompt = quick_prompt(path, object_info)
    outcome = server.run(prompt)
    savers = workflow.find(prompt, "SaveImage")
    assert savers
    for saver in savers:
        images = pictures(server, outcome, saver)
        assert images.shape[3] == 3 and images.std() > 5
        if path.stem == "5 Inpaint a photo":
            assert_only_the_middle_differs(images)


@pytest.mark.host
def test_the_library_gives_a_photo_back(server, object_info):
    """Into it, then, with the nodes that sleep in the template awake, out of it."""
    flow = load(LIBRARY)
    before = listed_chains(server)
    server.run(quickened(flow, object_info))
    (file,) = (name for name in listed_chains(server) if name not in before)
    for node in flow["nodes"]:
        node["mode"] = workflow.ALWAYS
        if node["type"] == "RivalLoadChain":
            node["widgets_values"] = [file]
    prompt = quickened(flow, server.object_info())
    outcome = server.run(prompt)
    (variations,) = (id_ for id_ in workflow.find(prompt, "SaveImage")
                     if prompt[id_]["_meta"]["title"] == "2 Variations")
    assert len(pictures(server, outcome, variations)) == 2


@pytest.fixture(scope="module")
def editor(browser, server, host):
    """In a small window, with the host's own settings."""
    with opened(browser, server, host, window=layout.SMALL_WINDOW) as editor:
        yield editor


@pytest.mark.host
@pytest.mark.sampled
def test_template_runs_in_the_browser(path, served, editor, object_info):
    """From the browser's own dialog, its text drawn; it sends what was run headless, so cached."""
    flow = load(path)
    editor.open_template(PACK_NAME, path.stem)
    assert editor.missing_nodes() == []
    if all(canvas := editor.canvas()):  # an app shows none
        assert editor.scale() == pytest.approx(layout.scale(flow, *canvas), abs=0.01)
        assert editor.scale() >= layout.LEGIBLE
    for node_id, node in workflow.to_prompt(flow, object_info).items():
        editor.set_widgets(node_id, quick(node))
    sent = {node_id: declared(node, object_info) for node_id, node in editor.prompt().items()}
    assert sent == {n: node["inputs"] for n, node in quick_prompt(path, object_info).items()}
    assert editor.run_to_its_end() == "execution_success"
    assert editor.our_errors() == []


def declared(node: dict, object_info) -> dict:
    """A browser's inputs of a node, less those that only the frontend knows (Preview Any's)."""
    known = {i.name for i in workflow.inputs_of(object_info[node["class_type"]])}
    return {name: value for name, value in node["inputs"].items() if name in known}


@pytest.mark.host
def test_a_workflow_older_than_a_widget_has_its_default(editor, server, object_info):
    """Saved before RIVAL Patch Model had *positions*: in the browser, and run, it is today's."""
    today, older = load(VARIATION), load(VARIATION)
    (patch,) = (node for node in older["nodes"] if node["type"] == "RivalPatchModel")
    assert patch["widgets_values"].pop() == "beside"
    assert workflow.problems(older, object_info) == []
    editor.load(older)
    assert editor.widgets("RivalPatchModel")["positions"] == "beside"
    sent, prompts = editor.prompt(), [workflow.to_prompt(w, object_info) for w in (today, older)]
    key = str(patch["id"])
    assert sent[key]["inputs"] == prompts[0][key]["inputs"] == prompts[1][key]["inputs"]
    for prompt in prompts:
        for node in prompt.values():
            node["inputs"] |= quick(node)
    server.run(prompts[0])
    assert server.run(prompts[1]).started == []  # all is cached, so it is the same run


def assert_only_the_middle_differs(images):
    """Several fillings of the hole that the photo has in its middle, one photo around them."""
    height, width = images.shape[1:3]
    spread = (images.max(axis=0).astype(int) - images.min(axis=0)).max(axis=-1)
    assert spread[: height // 8].max() <= 1 and spread[:, : width // 8].max() <= 1
    middle = spread[3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8]
    assert middle.mean() > 5


@pytest.mark.host
def test_the_template_browser_lists_and_serves_workflows(server):
    listed = server.get_json("/workflow_templates")[PACK_NAME]
    assert sorted(listed) == sorted(path.stem for path in WORKFLOWS)
    for path in WORKFLOWS:
        served = server.get_json(f"/api/workflow_templates/{PACK_NAME}/{quote(path.name)}")
        assert served == load(path)
