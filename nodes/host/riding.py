"""What lets a photo's row into the generated rows' own model call, as the host sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.samplers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .apart import COMPILED, FUNCTIONS, WINDOWS, foreign
from .features import others_acting

DEVICES = "multigpu_clones"
# What makes a conditioning entry act on a part of the image or of the schedule, or on more than it.
PARTIAL = ("area", "mask", "control", "hooks", "gligen", "default", "timestep_start",
           "timestep_end")  # fmt: skip


def is_compiled(model_options: dict) -> bool:
    """Whether another number of rows would have the model compiled anew."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    return any(COMPILED in keyed for keyed in wrappers.values())


def is_wrapped(model_options: dict) -> bool:
    """Whether another node stands around the model's calls, or the host divides them."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    around = (*FUNCTIONS, WINDOWS, DEVICES)
    return any(model_options.get(key) for key in around) or any(foreign(wrappers))


def is_patched(model: ModelPatcher, model_options: dict, *prompts: Any) -> bool:
    """Whether another node acts inside the model, and so on some of its rows."""
    return others_acting(model, model_options, *prompts) is not None


def is_partial(entries: Iterable[dict]) -> bool:
    """Whether a conditioning has more to it than what the model is told of every row."""
    return any(entry.get(key) is not None for entry in entries for key in PARTIAL)


def model_inputs(entry: dict, x: Tensor, sigma: Tensor) -> dict[str, Any]:
    """What the model is given with a row x [1, ...], by argument, as the host keeps it."""
    return comfy.samplers.get_area_and_mult(entry, x, sigma).conditioning


def joined(first: Sequence[Mapping[str, Any]], rows: Mapping[str, Any]) -> dict[str, Any] | None:
    """A call's arguments with those of single rows before them; None where they do not fit.

    first: see `model_inputs`. The host's own rules say what fits: texts of UNets may be repeated.
    """
    if any(inputs.keys() != rows.keys() for inputs in first):
        return None
    arguments = {}
    for key, own in rows.items():
        before = [inputs[key] for inputs in first]
        kind = type(before[0])
        if not all(one.can_concat(kind(one_row(one.cond, own))) for one in before):
            return None
        arguments[key] = before[0].concat([*before[1:], kind(own)])
    return arguments


def one_row(single: Any, rows: Any) -> Any:
    """The first of some rows of an argument; single: the same argument of one row."""
    if isinstance(single, Tensor) and isinstance(rows, Tensor):
        return rows[: len(single)]
    if isinstance(single, list) and isinstance(rows, list):
        return [one_row(a, b) for a, b in zip(single, rows)] + rows[len(single) :]
    return rows


def has_room(model: Any, rows: int, x: Tensor) -> bool:
    """Whether the host would put so many rows like x's into one call of a loaded model."""
    free = getattr(model.current_patcher, "get_free_memory", None)
    free = (free or comfy.model_management.get_free_memory)(x.device)
    return model.memory_required([rows, *x.shape[1:]]) * 1.5 < free
