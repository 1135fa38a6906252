"""The example workflows, and how to run them in seconds."""

from __future__ import annotations

import json

from serving import MARKS, WORKFLOWS, files_of, mark_of
from workflow import NOTES

VARIATION = next(path for path in WORKFLOWS if path.stem == "1 Variation of a photo")
LIBRARY = next(path for path in WORKFLOWS if path.stem == "7 Library of chains")
STEPS = 6


def load(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def quick(node: dict) -> dict:
    """The inputs that give a node of a prompt few steps on few and small pictures."""
    most = {"steps": STEPS, "iterations": 2, "batch_size": 2, "megapixels": 0.01}
    if node["class_type"].startswith("Empty"):
        most |= {"width": 64, "height": 48}
    widgets = {n: value for n, value in node["inputs"].items() if not isinstance(value, list)}
    return {name: min(value, widgets[name]) for name, value in most.items() if name in widgets}


def lacking(workflow: dict, object_info: dict) -> list[str]:
    """What of a workflow this host is too old for: nodes that it has not, and models' families.

    Of the newest host, which has every family, none: a node that it has not is a wrong name.
    """
    import tiny_dits

    known = tiny_dits.available()
    families = {mark_of(file) for file in files_of(workflow) if file.parts[0] != "text_encoders"}
    named = {mark for kind in ("checkpoints", "diffusion_models") for mark in MARKS[kind].values()}
    missing = sorted(families & named - set(known))
    if set(known) == set(tiny_dits.FAMILIES):
        return missing
    kinds = {node["type"] for node in workflow["nodes"]} - NOTES
    return missing + sorted(kinds - set(object_info))
