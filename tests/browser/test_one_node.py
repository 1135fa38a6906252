"""RIVAL as one node, where the host lists blueprints, and as an app, where it has them."""

from __future__ import annotations

import urllib.error

import pytest
import workflow
from blueprints import BLUEPRINTS, PHOTO, SAVED, inside, opened_up
from browsing import is_old, opened
from editor import MODE
from serving import PACK_NAME, WORKFLOWS, pictures
from templates import load, quick

NAME = "Photo variations"
ASKED = ["words", "how close", "how many", "seed", "checkpoint", "megapixels"]
(BLUEPRINT,) = BLUEPRINTS
APPS = [path for path in WORKFLOWS if path.name.endswith(".app.json")]  # so the dialog tells them
BETWEEN = """(steps) => {
    const [node] = app.graph.nodes, add = (type, away) => {
        const other = LiteGraph.createNode(type);
        other.pos = [node.pos[0] + away, node.pos[1]];
        app.graph.add(other);
        return other;
    };
    const photo = add("LoadImage", -400), saved = add("SaveImage", 500);
    app.canvas.deselectAll();
    photo.connect(0, node, node.inputs.findIndex((input) => input.name === "photo"));
    node.connect(0, saved, 0);
    for (const inner of node.subgraph.nodes) for (const widget of inner.widgets ?? [])
        widget.value = steps[inner.id]?.[widget.name] ?? widget.value;
    return [node, photo, saved].map((each) => String(each.id));
}"""


@pytest.fixture(scope="module")
def prompt(object_info) -> dict:
    """What is inside the node, with few steps."""
    prompt = workflow.to_prompt(opened_up(load(BLUEPRINT)), object_info)
    for node in prompt.values():
        node["inputs"] |= quick(node)
    return prompt


@pytest.fixture(scope="module")
def listing(server) -> dict:
    try:
        return server.get_json("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI lists no blueprints")


@pytest.fixture(scope="module")
def editor(browser, server, host):
    with opened(browser, server, host) as editor:
        yield editor


def test_it_asks_for_a_photo_and_little_else():
    (node,) = load(BLUEPRINT)["nodes"]
    assert [i["name"] for i in node["inputs"]] == ["photo", *ASKED]
    assert [i["name"] for i in inside(load(BLUEPRINT))["inputs"]] == ["photo", *ASKED]
    assert [i["name"] for i in node["inputs"] if "widget" not in i] == ["photo"]


@pytest.mark.host
def test_what_is_inside_fits_the_registered_nodes(object_info):
    assert workflow.problems(opened_up(load(BLUEPRINT)), object_info) == []


@pytest.mark.host
def test_the_host_lists_it_as_it_is(listing, server):
    (key,) = (key for key, entry in listing.items() if entry["name"] == NAME)
    assert listing[key]["info"]["node_pack"].endswith(PACK_NAME)
    served = server.get_json(f"/global_subgraphs/{key}")["data"]
    assert served == BLUEPRINT.read_text(encoding="utf-8")


@pytest.mark.host
def test_it_runs(listing, server, prompt):
    images = pictures(server, server.run(prompt), str(SAVED))
    assert len(images) == 2 and images.std() > 5


@pytest.mark.host
def test_found_by_its_name_it_runs_in_the_browser(listing, editor, prompt):
    editor.add_by_search(NAME)
    key, *ends = editor.page.evaluate(BETWEEN, {n: quick(node) for n, node in prompt.items()})
    asked = {"how close": 0.7, "how many": 2, "words": "two dogs", "megapixels": 0.01, "seed": 7}
    editor.set_widgets(key, asked)
    names = dict(zip(ends, map(str, (PHOTO, SAVED))))
    sent = {names.get(n, n.rpartition(":")[2]): node for n, node in editor.prompt().items()}
    assert sent.keys() == prompt.keys()
    kinds = "RivalPatchModel", "RivalKSampler", "CLIPTextEncode", "ImageScaleToTotalPixels"
    patch, sample, words, scale = (workflow.find(prompt, kind)[0] for kind in kinds)
    changed = {
        patch: {"replace_end": 0.7, "normalize_end": 0.7},
        sample: {"batch_size": 2, "seed": 7},
        words: {"text": "two dogs"},
        scale: {"megapixels": 0.01},
    }
    for n, node in prompt.items():
        for name, value in (node["inputs"] | changed.get(n, {})).items():
            if not isinstance(value, list) and name != "filename_prefix":
                assert sent[n]["inputs"][name] == value, (node["class_type"], name)
    editor.run(pictures=1)


def test_there_is_an_app():
    assert APPS


@pytest.mark.parametrize("path", APPS, ids=lambda path: path.stem)
def test_an_app_asks_for_widgets_and_shows_pictures(path):
    nodes = {node["id"]: node for node in load(path)["nodes"]}
    extra = load(path)["extra"]
    data = extra["linearData"]
    assert extra["linearMode"] is True
    for key, name in data["inputs"]:
        (found,) = (i for i in nodes[key]["inputs"] if i["name"] == name)
        assert found["widget"] == {"name": name} and found["link"] is None
    assert [nodes[key]["type"] for key in data["outputs"]] == ["SaveImage"]


@pytest.mark.host
@pytest.mark.parametrize("path", APPS, ids=lambda path: path.stem)
def test_an_app_opens_as_one_and_runs(path, editor, object_info, host):
    if is_old(host):
        pytest.skip("this ComfyUI has no apps: it opens as a graph")
    editor.open_template(PACK_NAME, path.stem)
    editor.page.wait_for_function(f"({MODE})() === 'app'")
    for node_id, node in workflow.to_prompt(load(path), object_info).items():
        editor.set_widgets(node_id, quick(node))
    nodes = {node["id"]: node for node in load(path)["nodes"]}
    for key, name in load(path)["extra"]["linearData"]["inputs"]:
        (label,) = (i.get("label", name) for i in nodes[key]["inputs"] if i["name"] == name)
        editor.page.get_by_text(label, exact=True).locator("visible=true").first.wait_for()
    assert editor.run_to_its_end() == "execution_success"
    picture = editor.page.locator("img[src*=variation]:visible").first
    picture.wait_for()
