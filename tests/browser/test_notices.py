"""What a node's last run had to say is shown on it as long as it holds, and over nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import workflow
from serving import REPO
from templates import VARIATION, load, quick

pytestmark = [pytest.mark.host, pytest.mark.sampled]

PATCH, SAMPLER = "RivalPatchModel", "RivalKSampler"
NOTICE = "the model has no RIVAL Patch Model, so nothing of the photo is injected"
BYPASSED = 4
MODE = "([id, mode]) => { app.graph.getNodeById(id).mode = mode }"
BOXES = """(id) => {
    const node = app.graph.getNodeById(id), view = app.canvas, scale = view.ds.scale;
    const box = (element) => { const { x, y, width, height } = element.getBoundingClientRect();
        return [x, y, width, height] };
    const widget = (name) => node.widgets.find((widget) => widget.name === name);
    const text = box(widget("last_run").element);
    const image = document.querySelector(`[data-node-id="${id}"] img`);
    if (image) return [text, box(image)];
    const page = view.canvas.getBoundingClientRect(), picture = widget("$$canvas-image-preview");
    return [text, [(node.pos[0] + view.ds.offset[0]) * scale + page.left,
        (node.pos[1] + picture.y + view.ds.offset[1]) * scale + page.top,
        node.size[0] * scale, picture.computedHeight * scale]];
}"""
CLOSE_IN_A_SUBGRAPH = """(id) => {
    const { node, subgraph } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]));
    window.subgraph = subgraph;
    app.canvas.setDirty(true, true);
}"""
TELL_AND_SEND = """([text, event]) => {
    const { api } = comfyAPI.api, [node] = app.graph.nodes, id = String(node.id), said = [];
    const send = (kind, detail) => {
        api.dispatchEvent(new CustomEvent(kind, { detail }));
        const { element } = node.widgets.find((widget) => widget.name === "last_run");
        said.push(element.textContent);
    };
    send("executed", { node: id, output: { text: [text], notices: [text] }, prompt_id: "none" });
    if (event === "executing") send(event, id);
    else for (node.mode of [0, 4]) send(event, { prompt_id: "none" });
    return said;
}"""
UNDO = """async () => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
    const [node] = app.graph.nodes;
    (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
    node.pos = [-500, -500];
    (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
    await tracker.undo();
    return app.graph.nodes[0] !== node;
}"""  # which makes the nodes anew


@pytest.fixture(scope="module")
def folder(host, request) -> Path:
    """The pictures are left there, to be looked at."""
    folder = REPO / ".cache" / "screenshots" / host.version / "notices"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def ids(object_info) -> dict[str, str]:
    """Of the variation template's nodes, by type."""
    prompt = workflow.to_prompt(load(VARIATION), object_info)
    return {node["class_type"]: node_id for node_id, node in prompt.items()}


@pytest.fixture(scope="module")
def before(page, object_info, ids):
    """The variation template without its patch: as saved, and as sent."""
    page.load(load(VARIATION))
    for node_id, node in workflow.to_prompt(load(VARIATION), object_info).items():
        page.set_widgets(node_id, quick(node))
    page.set_widgets(ids["RivalInvert"], {"solver": "ddim", "features": "live"})  # never warns
    unused = random.randrange(2**32)  # what is cached is not run
    page.set_widgets(
        ids[SAMPLER], {"batch_size": 1, "seed": unused, "control_after_generate": "fixed"}
    )
    switch(page, ids[PATCH], BYPASSED)
    return page.saved(), page.prompt()


@pytest.fixture(scope="module")
def warned(page, before):
    """That, after a run."""
    page.centre(SAMPLER, scale=0.9)
    assert page.run_to_its_end() == "execution_success"
    return page


def switch(editor, node_id: str, mode: int) -> None:
    editor.page.evaluate(MODE, [int(node_id), mode])


def toasts(editor):
    return editor.page.get_by_role("alert").filter(has_text=NOTICE)


def picture(editor, folder, name: str, request) -> None:
    style = request.node.callspec.params["page"].replace(" ", "-")
    editor.page.screenshot(path=folder / f"{style}-{name}.png")


def test_a_notice_is_on_its_node_and_not_in_the_workflow(warned, before, ids):
    assert warned.said(ids[SAMPLER]) == NOTICE
    assert "6 steps" in warned.said(ids["RivalInvert"])
    assert warned.page.locator(".rival-notices.warns:visible").count() == 1
    assert toasts(warned).count() == 0
    saved, sent = before
    assert warned.prompt() == sent
    for node, now in zip(saved["nodes"], warned.saved()["nodes"]):
        assert {**now, "size": 0} == {**node, "size": 0}  # a picture makes a node higher


def test_it_is_not_over_the_picture(warned, ids, folder, request):
    picture(warned, folder, "warned", request)
    (x, y, width, height), image = warned.page.evaluate(BOXES, ids[SAMPLER])
    assert height > 10 and image[3] > 50
    assert y + height <= image[1] + 1
    assert image[0] <= x + width and x <= image[0] + image[2]  # above it, not beside


def test_an_undo_leaves_it(warned, ids):
    assert warned.page.evaluate(UNDO)
    warned.page.wait_for_timeout(500)
    assert warned.said(ids[SAMPLER]) == NOTICE


def test_a_run_without_its_cause_takes_it_away(warned, ids, folder, request):
    switch(warned, ids[PATCH], 0)
    assert warned.run_to_its_end() == "execution_success"
    assert warned.said(ids[SAMPLER]) == ""
    assert warned.page.get_by_text(NOTICE).locator("visible=true").count() == 0
    assert "6 steps" in warned.said(ids["RivalInvert"])  # which was cached
    picture(warned, folder, "mended", request)
    assert warned.page.evaluate(UNDO)
    warned.page.wait_for_timeout(500)
    assert warned.said(ids[SAMPLER]) == ""


def test_in_a_closed_subgraph_it_is_told_and_kept(warned, ids, folder, request):
    switch(warned, ids[PATCH], BYPASSED)
    warned.page.evaluate(CLOSE_IN_A_SUBGRAPH, int(ids[SAMPLER]))
    assert warned.run_to_its_end() == "execution_success"
    toasts(warned).first.wait_for()
    picture(warned, folder, "closed", request)
    warned.page.evaluate("() => app.canvas.setGraph(window.subgraph)")
    warned.command("Comfy.Canvas.FitView")
    warned.page.wait_for_timeout(500)
    assert NOTICE in warned.page.locator(".rival-notices:visible").first.inner_text()
    picture(warned, folder, "opened", request)


def test_a_node_that_runs_anew_or_no_more_says_nothing(page):
    page.add(SAMPLER)
    page.centre(SAMPLER)
    said = []
    for event in ("executing", "execution_start"):
        said += page.page.evaluate(TELL_AND_SEND, [NOTICE, event])
    assert said == [NOTICE, "", NOTICE, NOTICE, ""]


def test_the_runs_of_a_list_can_be_joined():
    """ComfyUI takes what to join from the first: each must have its keys, said or not."""
    from comfyui_rival.nodes.schema import notify, output

    said = ["one", *notify("node", ["two"])]
    assert output(text=said).ui.as_dict() == {"text": ["one\ntwo"], "notices": ["two"]}
    assert output().ui.as_dict() == {"text": [], "notices": []}
    assert output(text=said, kept=[1]).ui.keys() == output(kept=[2]).ui.keys()
