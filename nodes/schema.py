"""What every node of the pack shares: the graph type, the category, errors and notices."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from comfy_api.latest import io, ui

from ..rival_core.errors import RivalError
from . import host

RivalChain = io.Custom("RIVAL_CHAIN")
CATEGORY = "RIVAL"
_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(aliases: list[str], **fields) -> io.Schema:
    """An io.Schema in this pack's category; search aliases only where the host knows them."""
    if "search_aliases" in _SCHEMA_FIELDS:
        fields["search_aliases"] = aliases
    return io.Schema(category=CATEGORY, **fields)


def advanced(widget: io.Input) -> io.Input:
    """The widget, shown among the expert ones. Older hosts take no `advanced` argument."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


@contextmanager
def named(node: str) -> Iterator[None]:
    """Puts the node's display name before the errors raised inside."""
    try:
        yield
    except RivalError as error:
        raise RivalError(f"{node}: {error}.") from error


def notify(node: str, notices: list[str]) -> list[str]:
    """Logs notices that are not errors; give them to `output` to show them on the node, too."""
    for notice in notices:
        logging.warning("%s: %s", node, notice)
    return notices


def output(node: type[io.ComfyNode], *values, text: list[str] = (), **kept) -> io.NodeOutput:
    """A node's outputs, and lines of text shown on the node and kept in the history.

    kept: what else the history keeps, and the browser is told, as ComfyUI's `ui` has it.
    """
    if not text:
        return io.NodeOutput(*values, ui=kept or None)
    lines = "\n".join(text)
    if node.hidden is not None and node.hidden.unique_id is not None:
        host.show_on_node(node.hidden.unique_id, lines)
    shown = ui.PreviewText(lines)
    return io.NodeOutput(*values, ui={**kept, **shown.as_dict()} if kept else shown)
