"""From the browser's workflow format to the API's, on hand-made schemas."""

from __future__ import annotations

import pytest
import workflow

INFO = {
    "Load": {
        "input": {"required": {"file": [["a.png", "b.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
    },
    "Sample": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "scale": ["FLOAT", {"default": 2.0}],
                "mode": ["COMBO", {"options": ["fast", "slow"]}],
            },
            "optional": {"mask": ["MASK", {}], "late": ["INT", {"default": 7}]},
        },
        "output": ["IMAGE"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": []},
}


def node(id_, type_, inputs=(), widgets=None, mode=0, outputs=()):
    return {
        "id": id_,
        "type": type_,
        "mode": mode,
        "widgets_values": widgets,
        "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
    }


@pytest.fixture
def graph() -> dict:
    return {
        "nodes": [
            node(1, "Load", widgets=["a.png", "image"], outputs=["IMAGE", "MASK"]),
            node(
                2,
                "Sample",
                [("image", "IMAGE", 1), ("mask", "MASK", None)],
                [5, "randomize", 1.5, "slow"],
                outputs=["IMAGE"],
            ),
            node(3, "Save", [("images", "IMAGE", 2)]),
            node(4, "MarkdownNote", widgets=["read me"]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    }


def inputs_in(prompt, id_):
    return prompt[id_]["inputs"]


def test_a_workflow_becomes_a_prompt(graph):
    prompt = workflow.to_prompt(graph, INFO)
    assert workflow.problems(graph, INFO) == []
    assert list(prompt) == ["1", "2", "3"]
    assert inputs_in(prompt, "1") == {"file": "a.png"}
    assert inputs_in(prompt, "2") == {
        "image": ["1", 0],
        "seed": 5,
        "scale": 1.5,
        "mode": "slow",
        "late": 7,
    }
    assert inputs_in(prompt, "3") == {"images": ["2", 0]}


def test_a_widget_turned_into_an_input_takes_the_link(graph):
    graph["nodes"].append(node(5, "Load", widgets=["b.png"], outputs=["IMAGE", "MASK"]))
    graph["links"].append([3, 5, 0, 2, 2, "FLOAT"])
    graph["nodes"][1]["inputs"].append(
        {"name": "scale", "type": "FLOAT", "widget": {"name": "scale"}, "link": 3}
    )
    values = inputs_in(workflow.to_prompt(graph, INFO), "2")
    assert values["scale"] == ["5", 0]
    assert values["mode"] == "slow"


def test_muted_nodes_are_left_out_and_bypassed_ones_passed_through(graph):
    graph["nodes"][1]["mode"] = workflow.BYPASSED
    prompt = workflow.to_prompt(graph, INFO)
    assert list(prompt) == ["1", "3"] and inputs_in(prompt, "3") == {"images": ["1", 0]}
    graph["nodes"][1]["mode"] = workflow.MUTED
    prompt = workflow.to_prompt(graph, INFO)
    assert list(prompt) == ["1", "3"] and inputs_in(prompt, "3") == {}


def test_reroutes_are_passed_through(graph):
    graph["nodes"].append(node(6, "Reroute", [("", "*", 1)], outputs=["IMAGE"]))
    graph["links"] = [[1, 1, 0, 6, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [3, 6, 0, 2, 0, "IMAGE"]]
    graph["nodes"][1]["inputs"][0]["link"] = 3
    assert inputs_in(workflow.to_prompt(graph, INFO), "2")["image"] == ["1", 0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda g: g["nodes"][1].update(type="Gone"), "Gone (node 2): there is no such node"),
        (lambda g: g["nodes"][1]["widgets_values"].extend([3, 4]), "1 widget values more"),
        (lambda g: g["nodes"][1]["widgets_values"].pop(), "no value for the widget 'mode'"),
        (lambda g: g["nodes"][1]["widgets_values"].__setitem__(3, "warp"), "has no choice 'warp'"),
        (
            lambda g: g["nodes"][0]["widgets_values"].__setitem__(0, "z.png"),
            "has no choice 'z.png'",
        ),
        (lambda g: g["nodes"][2]["inputs"][0].update(link=None), "'images' is not connected"),
        (lambda g: g["nodes"][2]["inputs"][0].update(link=9), "has link 9, which is not there"),
        (lambda g: g["nodes"][2]["inputs"][0].update(name="x"), "it has no input 'x'"),
        (lambda g: g["links"][0].__setitem__(2, 1), "carries IMAGE and output 1 gives MASK"),
        (lambda g: g["links"][0].__setitem__(2, 5), "leaves from output 5"),
        (lambda g: g["links"][0].__setitem__(5, "MASK"), "takes IMAGE, not MASK"),
        (lambda g: g["nodes"].pop(0), "comes from or goes to a node that is not there"),
    ],
)
def test_what_does_not_fit_is_named(graph, change, problem):
    change(graph)
    assert any(problem in line for line in workflow.problems(graph, INFO))


def test_an_unknown_node_cannot_be_converted(graph):
    graph["nodes"][1]["type"] = "Gone"
    with pytest.raises(workflow.WorkflowError, match="Gone"):
        workflow.to_prompt(graph, INFO)
