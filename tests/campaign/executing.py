"""The host's own validator and executor in this process, on the pack's and the stand-in nodes."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import stand_ins

EXTRAS = ("custom_sampler", "model_advanced", "freelunch", "hypertile", "tomesd", "pag", "sag",
          "perpneg", "easycache", "context_windows", "hooks", "latent", "mask")
SENTENCE = re.compile(r"RIVAL [A-Z][A-Za-z ]+: [^\n]+\.")
LONGEST = 600  # characters of a sentence
RAW = ("exception_during_validation", "exception_during_inner_validation")


@dataclass
class Outcome:
    """How one prompt ended.

    kind: ran, invalid (not accepted), refused (by a sentence of the pack), interrupted, failed.
    """

    kind: str
    error: str = ""  # its type
    text: str = ""
    traceback: list[str] = field(default_factory=list)
    node: str = ""  # the type of the one that failed
    samples: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # by the sink's id
    log: list[str] = field(default_factory=list)

    def is_raised_by(self, pack: Path) -> bool:
        """Whether the last line that ran is one of the pack's nodes or of its core."""
        own = (f'File "{pack / folder}' for folder in ("nodes", "rival_core"))
        return bool(self.traceback) and any(path in self.traceback[-1] for path in own)

    def is_anothers(self, pack: Path) -> bool:
        """Whether another's node failed, and the pack had no part in it."""
        known = any(f'File "{pack}' in line for line in self.traceback)
        return not known and not self.node.startswith("Rival")

    def __str__(self) -> str:
        place = re.search(r'[^/\\"]+", line \d+', self.traceback[-1]) if self.traceback else None
        where = f" at {place[0]}".replace('",', "") if place else ""
        return f"{self.kind}: {self.error} {self.text[:300]!r}{where}"


class Server:
    """What the executor tells of its progress, nobody hears."""

    client_id = last_node_id = last_prompt_id = None

    def send_sync(self, *_) -> None:
        pass


class Log(logging.Handler):
    """Warnings as a list; with it nothing is printed."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record) -> None:
        self.lines.append(record.getMessage())


class Executor:
    """One queue without a browser. Nodes stay cached from prompt to prompt until `forget`."""

    def __init__(self, log: Log):
        import execution

        self.log, wanted = log, inspect.signature(execution.PromptExecutor).parameters
        new = {"cache_args": {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}}
        settings = new if "cache_args" in wanted else {}
        self.host = execution.PromptExecutor(Server(), **settings)

    def forget(self) -> None:
        self.host.reset()

    def run(self, prompt: dict) -> Outcome:
        """The prompt as if it came over HTTP: validated, then executed."""
        import execution

        prompt = copy.deepcopy(prompt)
        self.log.lines.clear()
        stand_ins.kept.clear()
        try:
            valid, error, outputs, node_errors = asyncio.run(
                execution.validate_prompt("campaign", prompt, None))
        except Exception as error:
            return Outcome("failed", type(error).__name__, f"in the validator: {error}")
        if not valid or node_errors:
            return refusal(error, node_errors)
        self.host.execute(prompt, "campaign", {}, outputs)
        return self.ended()

    def ended(self) -> Outcome:
        event, data = self.host.status_messages[-1]
        outcome = Outcome("ran", samples=dict(stand_ins.kept), log=list(self.log.lines))
        if event == "execution_interrupted":
            outcome.kind = "interrupted"
        elif event == "execution_error":
            outcome.error = data["exception_type"].rpartition(".")[2]
            outcome.text, outcome.traceback = data["exception_message"].strip(), data["traceback"]
            outcome.node = data["node_type"]
            is_ours = outcome.error == "RivalError" and is_sentence(outcome.text)
            outcome.kind = "refused" if is_ours else "failed"
        return outcome


def is_sentence(text: str) -> bool:
    return SENTENCE.fullmatch(text) is not None and len(text) <= LONGEST


def refusal(error: dict | None, node_errors: dict) -> Outcome:
    """The validator's answer; it failed where a node's own validation raised."""
    reasons = [reason for node in node_errors.values() for reason in node["errors"]]
    said = "; ".join(f"{r['message']}: {r['details']}" for r in reasons) or str(error)
    raw = [reason for reason in reasons if reason["type"] in RAW]
    return Outcome("failed" if raw else "invalid", raw[0]["type"] if raw else "", said)


@contextmanager
def executor() -> Iterator[Executor]:
    """The host's interrupts work as under a server, and its log is kept."""
    import comfy.model_management
    import comfy.utils

    register()
    log, root, hook = Log(), logging.getLogger(), comfy.utils.PROGRESS_BAR_HOOK
    handlers, root.handlers = root.handlers, [log]
    bars, comfy.utils.PROGRESS_BAR_ENABLED = comfy.utils.PROGRESS_BAR_ENABLED, False

    def progress(*_, **__):
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.utils.set_progress_bar_global_hook(progress)
    try:
        yield Executor(log)
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
        comfy.model_management.interrupt_current_processing(False)
        root.handlers, comfy.utils.PROGRESS_BAR_ENABLED = handlers, bars


def register() -> None:
    """The nodes that graphs are made of, known to the host."""
    from comfyui_rival.nodes import NODES

    import nodes

    known = nodes.NODE_CLASS_MAPPINGS
    if "CampaignModel" in known:
        return
    extras = Path(nodes.__file__).parent / "comfy_extras"
    for name in EXTRAS:
        asyncio.run(nodes.load_custom_node(str(extras / f"nodes_{name}.py"),
                                           module_parent="comfy_extras"))
    known.update({node.GET_SCHEMA().node_id: node for node in NODES})
    known.update(stand_ins.NODES)
