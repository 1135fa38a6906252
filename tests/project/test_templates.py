"""The templates as files: a menu to read, layouts that open legible, pictures, models, notes."""

from __future__ import annotations

import copy

import layout
import pytest
import workflow
from serving import LOADERS, WORKFLOWS, files_of, mark_of
from templates import VARIATION, load
from text_types import FAMILIES as TEXTS

HOME = "https://huggingface.co/"
OWN = {"my_concept.safetensors"}  # what a user brings
CANVASES = ((1366, 768), (1326, 728))  # of the newest frontend and the oldest, in a small window
FAST = ["rival", "anderson", 10]  # schedule, solver, iterations
PREVIEWING = {"RivalInvert", "RivalKSampler"}

every_template = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def of_type(flow: dict, kind: str) -> list[dict]:
    return [node for node in flow["nodes"] if node["type"] == kind]


def test_they_read_as_a_menu():
    """In the order of their names, the one to begin with is first, and no line is too long."""
    names = sorted(path.stem for path in WORKFLOWS)
    assert names[0] == VARIATION.stem
    assert all(name[0].isdigit() and name[1] == " " and len(name) <= 40 for name in names)
    assert {name[0] for name in names} == set("1234567")


def test_their_ids_are_their_own():
    assert len({load(path)["id"] for path in WORKFLOWS}) == len(WORKFLOWS)


@every_template
def test_its_picture_is_square_and_small(path):
    from PIL import Image

    picture = path.with_suffix(".jpg")
    assert Image.open(picture).size == (512, 512)
    assert picture.stat().st_size < 100_000


@every_template
def test_it_opens_with_its_text_drawn(path):
    for width, height in CANVASES:
        assert layout.scale(load(path), width, height) >= layout.LEGIBLE
    assert "ds" not in load(path)["extra"]  # the oldest frontend would open it where that says


@every_template
def test_nothing_lies_on_anything_else(path):
    flow = load(path)
    boxes = {node["id"]: layout.box(node) for node in flow["nodes"]}
    for a, here in boxes.items():
        assert [b for b, there in boxes.items() if a < b and layout.overlaps(here, there)] == []
    assert layout.behind(flow) == []


@every_template
def test_there_is_room_for_previews(path):
    flow = load(path)
    for node in (node for node in flow["nodes"] if node["type"] in PREVIEWING):
        left, _, right, bottom = layout.box(node)
        room = left, bottom, right, bottom + layout.ROOM
        assert not [n["id"] for n in flow["nodes"] if layout.overlaps(layout.box(n), room)]


def test_a_wire_behind_a_node_is_seen():
    """One without its reroutes, and a node that is moved into the wires' way."""
    flow = load(VARIATION)
    straight = copy.deepcopy(flow)
    straight["extra"] = {}
    assert len(layout.behind(straight)) > 5
    (note,) = of_type(flow, "MarkdownNote")
    note["pos"][1] = -400
    assert any(line.endswith(str(note["id"])) for line in layout.behind(flow))


@every_template
def test_it_tells_what_to_do_first_and_in_larger_type(path):
    (note,) = of_type(load(path), "MarkdownNote")
    lines = note["widgets_values"][0].split("\n\n")
    assert lines[0].startswith("## ") and "press Run" in lines[0]
    assert all(line.startswith("### ") for line in lines[1:])


@every_template
def test_the_browser_is_told_where_nodes_and_models_come_from(path):
    """So that it offers what is missing, also of models in several files."""
    for node in load(path)["nodes"]:
        source = "rival" if node["type"].startswith("Rival") else "comfy-core"
        assert node["type"] in workflow.NOTES or node["properties"]["cnr_id"] == source
        models = node["properties"].get("models", [])
        named = [file.name for file in files_of({"nodes": [node]}) if file.name not in OWN]
        assert [model["name"] for model in models] == named
        for model in models:
            assert model["directory"] == LOADERS[node["type"]]
            assert model["url"].startswith(HOME) and model["url"].endswith(f"/{model['name']}")


@every_template
def test_text_is_encoded_as_its_model_reads_it(path):
    """The type of its text loader, which comes after the files' names, is the model's family."""
    for node in (nodes := load(path)["nodes"]):
        if LOADERS.get(node["type"]) == "text_encoders":
            (model,) = (n for n in nodes if n["type"] == "UNETLoader")
            (file,) = files_of({"nodes": [model]})
            assert TEXTS[node["widgets_values"][-2]] == mark_of(file)


@every_template
def test_nobody_begins_with_the_slow_settings(path):
    """UNets at 20 steps of anderson, and what a patch keeps is kept by the inversion already."""
    flow = load(path)
    inversions, patches = of_type(flow, "RivalInvert"), of_type(flow, "RivalPatchModel")
    for values in (node["widgets_values"] for node in inversions):
        if values[2] == "anderson" and of_type(flow, "CheckpointLoaderSimple") and patches:
            assert values[0] <= 20
        assert values[2] != "ddim" or path.stem == "7 Reconstruct a photo"
    kept = {node["widgets_values"][6] for node in patches if node.get("mode", 0) == 0}
    if kept:
        assert {node["widgets_values"][8] for node in inversions} == kept


def test_variations_have_one_box_for_the_words():
    """It goes to the photo's inversion and to the new images, through the model's guidance."""
    for path in (path for path in WORKFLOWS if path.stem.startswith("1 ")):
        flow = load(path)
        ends = {(link[3], link[4]): link[1] for link in flow["links"]}
        (invert,), (sampler,) = of_type(flow, "RivalInvert"), of_type(flow, "RivalKSampler")
        assert ends[invert["id"], 2] == ends[sampler["id"], 2], path.stem
        boxes = [node["title"] for node in of_type(flow, "CLIPTextEncode")]
        assert boxes.count("What the photo shows") == 1 and len(boxes) <= 2
