"""What every node of the pack shares: the graph type, the category, errors and notices."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from comfy_api.latest import io, ui

from ..rival_core.errors import RivalError

RivalChain = io.Custom("RIVAL_CHAIN")
CATEGORY = "RIVAL"
NAMED = re.compile(r"RIVAL [\w ]+: ")  # how an error begins that has a node's name
_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(aliases: list[str], **fields) -> io.Schema:
    """An io.Schema in this pack's category, with what newer hosts know beside it.

    They find nodes by search aliases, and send what a cached node had to say again.
    """
    known = {"search_aliases": aliases, "has_intermediate_output": True}
    fields |= {name: value for name, value in known.items() if name in _SCHEMA_FIELDS}
    return io.Schema(category=CATEGORY, **fields)


def advanced(widget: io.Input) -> io.Input:
    """The widget, shown among the expert ones. Older hosts take no `advanced` argument."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


@contextmanager
def named(node: str) -> Iterator[None]:
    """Puts the node's display name before the errors raised inside, unless one is there already."""
    try:
        yield
    except RivalError as error:
        if NAMED.match(f"{error}"):
            raise
        raise RivalError(f"{node}: {error}.") from error


class Notice(str):
    """A line that warns: the browser also puts it forward where its node is out of sight."""


def notify(node: str, notices: list[str]) -> list[Notice]:
    """Logs notices that are not errors; give them to `output` to show them on the node, too."""
    for notice in notices:
        logging.warning("%s: %s", node, notice)
    return [Notice(notice) for notice in notices]


class Told(ui.PreviewText):
    """Lines of plain text, as ComfyUI's `ui` has them, and which of them are notices.

    web/js/notices.js shows them on the node. Nothing is sent to the frontend's own text widget:
    older ones take its text for HTML, and the lines hold what others wrote.
    """

    def __init__(self, lines: list[str]):
        super().__init__("\n".join(lines))
        self.notices = [line for line in lines if isinstance(line, Notice)]

    def as_dict(self) -> dict:
        return {"text": [self.value] if self.value else [], "notices": self.notices}


def output(*values, text: list[str] = (), **kept) -> io.NodeOutput:
    """A node's outputs, and lines of text shown on the node and kept in the history.

    Without text the node is told so, too: what it said of an earlier run is gone then.
    kept: what else the history keeps, and the browser is told, as ComfyUI's `ui` has it.
    """
    told = Told(text)
    return io.NodeOutput(*values, ui={**kept, **told.as_dict()} if kept else told)
