"""An output that a node does not have this time."""

from __future__ import annotations

from comfy_execution.graph_utils import ExecutionBlocker


def none_of(message: str | None = None) -> ExecutionBlocker:
    """What stands in for it: the nodes that need it do not run.

    The host says the message at each of them; without one they wait without a word.
    """
    return ExecutionBlocker(message)
