"""The pack's subgraph blueprints, opened up."""

from __future__ import annotations

import copy

from serving import REPO

BLUEPRINTS = sorted((REPO / "subgraphs").glob("*.json"))
GIVEN, RESULT = -10, -20  # the ids of a subgraph's own ends in its links
PHOTO, SAVED = 101, 102  # no node inside has these


def inside(blueprint: dict) -> dict:
    """The subgraph of its one node."""
    ((node,), (subgraph,)) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    return subgraph


def opened_up(blueprint: dict) -> dict:
    """What is inside as a workflow: Load Image gives what it asks for, Save Image takes the rest.

    Widgets that the node shows keep the values that they have inside.
    """
    subgraph = copy.deepcopy(inside(blueprint))
    shown = {i["link"] for node in subgraph["nodes"] for i in node["inputs"] if "widget" in i}
    ends = {GIVEN: PHOTO, RESULT: SAVED}
    links = [
        [link["id"], ends.get(link["origin_id"], link["origin_id"]), link["origin_slot"],
         ends.get(link["target_id"], link["target_id"]), link["target_slot"], link["type"]]
        for link in subgraph["links"] if link["id"] not in shown
    ]  # fmt: skip
    (result,) = (link[0] for link in links if link[3] == SAVED)
    for node in subgraph["nodes"]:
        node["inputs"] = [i for i in node["inputs"] if "widget" not in i]
    ends = [
        {"id": PHOTO, "type": "LoadImage", "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
         "widgets_values": ["example.png", "image"]},
        {"id": SAVED, "type": "SaveImage", "widgets_values": ["rival/blueprint"],
         "inputs": [{"name": "images", "type": "IMAGE", "link": result}]},
    ]  # fmt: skip
    return {"nodes": [*subgraph["nodes"], *ends], "links": links}
