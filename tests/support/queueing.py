"""Prompts as ComfyUI's queue takes or refuses them, in this process: nothing runs."""

from __future__ import annotations

import asyncio
import inspect


class Anything:
    """A node whose output goes into any input, as switches and maths nodes have it."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("*",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


class Output:
    """A node for which a prompt is run."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"any": ("*",)}}


LINK = ["any", 0]


def widgets(node: type) -> dict:
    """The values that a new node has."""
    from comfy_api.latest import io

    return {i.id: i.default for i in node.define_schema().inputs if isinstance(i, io.WidgetInput)}


def sockets(node: type) -> dict:
    """Links for what must be connected."""
    from comfy_api.latest import io

    return {i.id: LINK for i in node.define_schema().inputs
            if not isinstance(i, io.WidgetInput) and not i.optional}


def errors(monkeypatch, node: type, **inputs) -> list[dict]:
    """What the queue has against a node with these inputs and the widgets' defaults."""
    import execution

    import nodes

    for name, known in (("Anything", Anything), ("Output", Output), ("Tested", node)):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, known)
    inputs = {**widgets(node), **sockets(node), **inputs}
    prompt = {
        "any": {"class_type": "Anything", "inputs": {}},
        "tested": {"class_type": "Tested", "inputs": inputs},
        "output": {"class_type": "Output", "inputs": {"any": ["tested", 0]}},
    }
    node.GET_SCHEMA()  # as at registration
    wanted = execution.validate_prompt("test", prompt, None)
    valid, _, _, found = asyncio.run(wanted) if inspect.isawaitable(wanted) else wanted
    assert valid == (not found)
    assert set(found) <= {"tested"}, found
    return found.get("tested", {"errors": []})["errors"]
