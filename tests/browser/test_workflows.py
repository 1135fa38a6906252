"""Every example workflow fits the registered nodes, converts, runs headless and in the browser."""

from __future__ import annotations

import pytest
import workflow
from browsing import opened
from serving import LOADERS, PACK_NAME, WORKFLOWS, files_of, mark_of, pictures
from templates import VARIATION, lacking, load, quick
from text_types import FAMILIES as TEXTS


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
    prompt = workflow.to_prompt(load(path), object_info)
    for node in prompt.values():
        node["inputs"] |= quick(node)
    return prompt


def test_there_is_a_variation_workflow():
    assert "variation" in [path.stem for path in WORKFLOWS]


def test_workflow_has_a_picture(path):
    assert any(path.with_suffix(kind).exists() for kind in (".jpg", ".png"))


def test_workflow_is_laid_out_without_overlaps(path):
    boxes = {node["id"]: (*node["pos"], *node["size"]) for node in load(path)["nodes"]}
    title = 30  # above a node's position
    for a, (ax, ay, aw, ah) in boxes.items():
        for b, (bx, by, bw, bh) in boxes.items():
            apart = ax + aw <= bx or bx + bw <= ax or ay + ah <= by - title or by + bh <= ay - title
            assert a == b or apart, f"nodes {a} and {b} overlap"


def test_workflow_tells_what_to_change(path):
    assert workflow.NOTES & {node["type"] for node in load(path)["nodes"]}


def test_workflow_says_where_its_models_are(path):
    """Of models in several files, and wherever it says so: the browser offers what is missing."""
    for node in load(path)["nodes"]:
        models = node["properties"].get("models", [])
        folder = LOADERS.get(node["type"])
        if models or folder in ("diffusion_models", "text_encoders", "vae"):
            named = [file.name for file in files_of({"nodes": [node]})]
            assert [model["name"] for model in models] == named
            assert {model["directory"] for model in models} == {folder}
            for model in models:
                assert model["url"].startswith("https://huggingface.co/")
                assert model["url"].endswith(f"/{model['name']}")


def test_workflow_encodes_text_as_its_model_reads_it(path):
    """The type of its text loader, which comes after the files' names, is the model's family."""
    for node in (nodes := load(path)["nodes"]):
        if LOADERS.get(node["type"]) == "text_encoders":
            (model,) = (n for n in nodes if n["type"] == "UNETLoader")
            (file,) = files_of({"nodes": [model]})
            assert TEXTS[node["widgets_values"][-2]] == mark_of(file)


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
        if path.stem == "inpainting":
            assert_only_the_middle_differs(images)


@pytest.fixture(scope="module")
def editor(browser, server, host):
    with opened(browser, server, host) as editor:
        yield editor


@pytest.mark.host
def test_template_runs_in_the_browser(path, served, editor, object_info):
    """Opened from the browser's own dialog; it sends what runs headless, so all is cached."""
    editor.open_template(PACK_NAME, path.stem)
    assert editor.missing_nodes() == []
    prompt = workflow.to_prompt(load(path), object_info)
    for node_id, node in prompt.items():
        editor.set_widgets(node_id, quick(node))
    sent = {node_id: declared(node, object_info) for node_id, node in editor.prompt().items()}
    assert sent == {n: node["inputs"] for n, node in quick_prompt(path, object_info).items()}
    editor.run(pictures=len(workflow.find(prompt, "SaveImage")))
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
    assert sorted(listed) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        served = server.get_json(f"/api/workflow_templates/{PACK_NAME}/{path.name}")
        assert served == load(path)
