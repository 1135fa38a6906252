"""The rows of a guider's calls: whose prompt each has, and what a prediction is made from."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import torch

CALLED_NEGATIVE = ("negative", "uncond")


def role_of(name: str, entry: dict) -> str | None:
    """Whether a guider's prompt is a "positive" or "negative" one; None if nothing tells.

    The entry's own mark counts before the name under which a guider keeps it: core so marks
    Perp-Neg's empty prompt and the second prompt of Dual CFG.
    """
    marked = entry.get("prompt_type")
    if marked in ("positive", "negative"):
        return marked
    if name == "positive":
        return name
    return "negative" if any(word in name.lower() for word in CALLED_NEGATIVE) else None


def row_roles(conds: dict[str, list[dict]]) -> dict[Any, str]:
    """The roles of a guider's conditioning entries that are known, by their uuids.

    Where ComfyUI gave a negative entry a positive one's uuid (it does for areas), the entry is
    given one of its own: `conds` is this run's copy.
    """
    roles: dict[Any, str] = {}
    for name, entries in conds.items():
        for entry in entries:
            role = role_of(name, entry)
            if role is not None and roles.setdefault(entry["uuid"], role) != role:
                entry["uuid"] = uuid.uuid4()
                roles[entry["uuid"]] = role
    return roles


def row_names(conds: dict[str, list[dict]]) -> dict[Any, str]:
    """What a guider calls the prompt of each conditioning entry, by the entries' uuids."""
    return {entry["uuid"]: name for name, entries in conds.items() for entry in entries}


def has_text(entry: dict, conditioning: Any) -> bool:
    """Whether a guider's entry is of the same encoded text as a CONDITIONING."""
    own, (other, _) = entry.get("cross_attn"), conditioning[0]
    return own is not None and own.shape == other.shape and torch.equal(own, other.to(own))


def encoded_text(entry: dict) -> torch.Tensor | None:
    """[1, T, C]: what the model's cross-attention reads of a processed entry, if it reads text."""
    found = entry.get("model_conds", {}).get("c_crossattn")
    return getattr(found, "cond", None)


class WatchedWindows:
    """A context handler that also shows what all its windows come to."""

    def __init__(self, handler: Any, saw: Callable[[list, list], None]):
        self.handler, self.saw = handler, saw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handler, name)

    def execute(self, calc_cond_batch, model, conds, *args, **kwargs):
        denoised = self.handler.execute(calc_cond_batch, model, conds, *args, **kwargs)
        self.saw(conds, denoised)
        return denoised


def watch_windows(model_options: dict, saw: Callable[[list, list], None]) -> dict:
    """The options with Context Windows, if there are any, watched."""
    handler = model_options.get("context_handler")
    if handler is None:
        return model_options
    return {**model_options, "context_handler": WatchedWindows(handler, saw)}
