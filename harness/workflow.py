"""Turns a workflow as the browser saves it into a prompt for the HTTP API, and checks it first.

    info = client.object_info()
    assert not problems(workflow, info)
    client.run(to_prompt(workflow, info))

Pure functions on parsed JSON; `info` is the server's /object_info. Muted nodes and notes are left
out, bypassed nodes and reroutes are passed through. Subgraphs and primitive nodes are not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NOTES = {"Note", "MarkdownNote"}
REROUTE = "Reroute"
ALWAYS, MUTED, BYPASSED = 0, 2, 4  # a node's `mode`
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = {"seed", "noise_seed"}  # the browser adds a control widget after these by their name


class WorkflowError(ValueError):
    """The workflow cannot be converted; the message lists what is wrong."""


@dataclass(frozen=True)
class Input:
    """One input of a registered node, in the order of its schema."""

    name: str
    type: str
    required: bool
    options: dict = field(default_factory=dict)
    choices: tuple | None = None  # of a combo

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGETS and not self.options.get("forceInput")

    @property
    def has_companion(self) -> bool:
        """Whether the browser stores one value more after this one's."""
        controlled = self.options.get("control_after_generate", self.name in SEEDS)
        is_seed = self.type == "INT" and controlled
        return bool(is_seed or self.options.get("image_upload"))

    def accepts(self, value: Any) -> bool:
        return self.choices is None or value in self.choices


def inputs_of(info: dict) -> list[Input]:
    """The inputs of one entry of /object_info."""
    return [
        _input(name, spec, section == "required")
        for section in ("required", "optional")
        for name, spec in info["input"].get(section, {}).items()
    ]


def _input(name: str, spec: list, required: bool) -> Input:
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, list):
        return Input(name, "COMBO", required, options, tuple(kind))
    choices = tuple(options["options"]) if kind == "COMBO" and "options" in options else None
    return Input(name, kind, required, options, choices)


def widget_values(node: dict, inputs: list[Input]) -> tuple[dict[str, Any], list[Any]]:
    """A node's widget values by name, and the stored values that no widget is there for.

    A widget that came into the schema later than the file has its default.
    """
    stored = node.get("widgets_values") or []
    widgets = [i for i in inputs if i.is_widget]
    if isinstance(stored, dict):
        named, left = dict(stored), []
    else:
        named, left = {}, list(stored)
        for widget in widgets:
            if left:
                named[widget.name] = left.pop(0)
                if widget.has_companion and left:
                    left.pop(0)
    defaults = {w.name: w.options["default"] for w in widgets if "default" in w.options}
    return {**defaults, **named}, left


def problems(workflow: dict, info: dict) -> list[str]:
    """What in a workflow does not fit the registered nodes, one line each; empty if all fits."""
    links = _links(workflow)
    found = [
        f"link {link[0]} comes from or goes to a node that is not there"
        for link in links.values()
        if not {link[1], link[3]} <= set(_nodes(workflow))
    ]
    for node in _working(workflow):
        if node["type"] not in info:
            found.append(f"{_name(node)}: there is no such node")
        else:
            inputs = inputs_of(info[node["type"]])
            lines = [
                *_widget_problems(node, inputs),
                *_socket_problems(node, inputs, links),
                *_output_problems(node, info[node["type"]], links),
            ]
            found += [f"{_name(node)}: {line}" for line in lines]
    return found


def _widget_problems(node: dict, inputs: list[Input]) -> Iterator[str]:
    values, left = widget_values(node, inputs)
    linked = _linked(node)
    widgets = [i for i in inputs if i.is_widget]
    if left:
        yield f"{len(left)} widget values more than its {len(widgets)} widgets"
    for widget in widgets:
        if widget.name not in values:
            if widget.required and widget.name not in linked:
                yield f"no value for the widget {widget.name!r}"
        elif not widget.accepts(values[widget.name]) and widget.name not in linked:
            yield f"{widget.name!r} has no choice {values[widget.name]!r}"


def _socket_problems(node: dict, inputs: list[Input], links: dict) -> Iterator[str]:
    linked, known = _linked(node), {i.name: i for i in inputs}
    for wanted in inputs:
        if wanted.required and not wanted.is_widget and wanted.name not in linked:
            yield f"the input {wanted.name!r} is not connected"
    for name, link in linked.items():
        if name not in known:
            yield f"it has no input {name!r}"
        elif link not in links:
            yield f"the input {name!r} has link {link}, which is not there"
        elif not _fits(links[link][5], known[name].type):
            yield f"the input {name!r} takes {known[name].type}, not {links[link][5]}"


def _output_problems(node: dict, info: dict, links: dict) -> Iterator[str]:
    for id_, origin, slot, *_, kind in links.values():
        if origin != node["id"]:
            continue
        if slot >= len(info["output"]):
            yield f"link {id_} leaves from output {slot}, which is not there"
        elif not _fits(kind, info["output"][slot]):
            yield f"link {id_} carries {kind} and output {slot} gives {info['output'][slot]}"


def _fits(given: str, wanted: Any) -> bool:
    """Types are names, `*` for any, or several names with commas between them."""
    if isinstance(wanted, list) or "*" in (given, wanted):
        return True
    return bool(set(given.split(",")) & set(wanted.split(",")))


def to_prompt(workflow: dict, info: dict) -> dict[str, dict]:
    """The workflow in API format. WorkflowError lists what does not fit the server's nodes."""
    links, nodes = _links(workflow), _nodes(workflow)
    prompt = {}
    for node in _working(workflow):
        if node["type"] not in info:
            raise WorkflowError(f"{_name(node)}: there is no such node on this server")
        inputs = inputs_of(info[node["type"]])
        values, left = widget_values(node, inputs)
        if left:
            raise WorkflowError(f"{_name(node)}: {len(left)} widget values too many")
        sources = {name: _source(link, links, nodes) for name, link in _linked(node).items()}
        values |= {name: source for name, source in sources.items() if source is not None}
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": {i.name: values[i.name] for i in inputs if i.name in values},
            "_meta": {"title": node.get("title") or node["type"]},
        }
    return prompt


def _source(link: int, links: dict, nodes: dict) -> list | None:
    """[node id, output slot] behind a link; None if it ends at a muted node or nowhere."""
    if link not in links:
        return None
    _, origin, slot, *_ = links[link]
    node = nodes[origin]
    if node.get("mode", ALWAYS) == MUTED:
        return None
    if node["type"] != REROUTE and node.get("mode", ALWAYS) != BYPASSED:
        return [str(origin), slot]
    kind = node["outputs"][slot]["type"]
    for given in node.get("inputs", []):
        if given.get("link") is not None and _fits(given["type"], kind):
            return _source(given["link"], links, nodes)
    return None


def find(prompt: dict, class_type: str) -> list[str]:
    """The ids of a prompt's nodes of one type."""
    return [id_ for id_, node in prompt.items() if node["class_type"] == class_type]


def _links(workflow: dict) -> dict[int, list]:
    return {link[0]: link for link in workflow.get("links", [])}


def _nodes(workflow: dict) -> dict[int, dict]:
    return {node["id"]: node for node in workflow["nodes"]}


def _working(workflow: dict) -> list[dict]:
    """The nodes that a prompt has."""
    return [
        node
        for node in workflow["nodes"]
        if node["type"] not in NOTES | {REROUTE} and node.get("mode", ALWAYS) == ALWAYS
    ]


def _linked(node: dict) -> dict[str, int]:
    """The connected inputs' link ids; a widget turned into an input is among them."""
    return {i["name"]: i["link"] for i in node.get("inputs", []) if i.get("link") is not None}


def _name(node: dict) -> str:
    return f"{node['type']} (node {node['id']})"
