"""The example workflows, and how to run them in seconds."""

from __future__ import annotations

import json

from serving import WORKFLOWS

VARIATION = next(path for path in WORKFLOWS if path.stem == "variation")
STEPS = 6


def load(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def quick(node: dict) -> dict:
    """The inputs that give a node of a prompt few steps on few and small pictures."""
    most = {"steps": STEPS, "iterations": 3, "batch_size": 2, "megapixels": 0.01}
    if node["class_type"] == "EmptyLatentImage":
        most |= {"width": 64, "height": 48}
    widgets = {n: value for n, value in node["inputs"].items() if not isinstance(value, list)}
    return {name: min(value, widgets[name]) for name, value in most.items() if name in widgets}
