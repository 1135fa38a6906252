"""What shared workflow files rely on: ids, input names, types, order, defaults.

golden/nodes.json holds it, from the oldest host served. After a change that is meant, write it
anew: `COMFYUI_PATH=<the oldest ComfyUI> RIVAL_GOLDEN=write python tests -k golden`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import workflow

FILE = Path(__file__).resolve().parents[1] / "golden" / "nodes.json"
NODES = list(json.loads(FILE.read_text(encoding="utf-8")))
KEPT = ("default", "min", "max", "step", "control_after_generate", "advanced")


def contract(info: dict) -> dict:
    """The part of one node's /object_info that a saved workflow depends on."""
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "inputs": [_input(i) for i in workflow.inputs_of(info)],
        "outputs": [list(pair) for pair in zip(info["output"], info["output_name"])],
    }


def _input(i: workflow.Input) -> dict:
    kept = {key: i.options[key] for key in KEPT if i.options.get(key) not in (None, False)}
    if i.options.get("default") is False:
        kept["default"] = False
    choices = {} if i.choices is None else {"choices": list(i.choices)}
    return {"name": i.name, "type": i.type, "required": i.required, **kept, **choices}


def stored(current: dict) -> dict:
    """The golden contracts; RIVAL_GOLDEN=write stores the current ones first."""
    if os.environ.get("RIVAL_GOLDEN") == "write":
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(current, indent=1) + "\n", encoding="utf-8")
    return json.loads(FILE.read_text(encoding="utf-8"))


def without_choices(contract: dict) -> dict:
    """Hosts differ in the schedulers they offer, so choices are compared apart."""
    inputs = [{k: v for k, v in i.items() if k != "choices"} for i in contract["inputs"]]
    return {**contract, "inputs": inputs}


def missing_choices(golden: dict, current: dict) -> set[tuple[str, str]]:
    """(input, choice) pairs that saved workflows may hold and the node no longer takes.

    What stands in a list of files while there is none is no choice.
    """
    pairs = zip(golden["inputs"], current["inputs"])
    return {
        (old["name"], choice)
        for old, new in pairs
        for choice in set(old.get("choices", ())) - set(new.get("choices", ()))
        if not choice.startswith("(none yet")
    }
