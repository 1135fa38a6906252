"""Progress on the terminal: a bar for each exemplar, or plain lines when nobody watches."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

BAR = 30


class Progress:
    """Takes an engine's reports. `stages`: a label for each part that counts; `steps`: its size."""

    def __init__(self, name: str, stages: dict[str, str], steps: int, stream: TextIO | None = None):
        self.name, self.stages, self.steps = name, stages, steps
        self.stream = stream or sys.stdout
        self.done = dict.fromkeys(stages, 0.0)  # which share of each
        self.live = self.stream.isatty()

    def __call__(self, stage: str, value: int, maximum: int) -> None:
        if stage not in self.stages:
            return
        self.done[stage] = max(self.done[stage], value / max(maximum, 1))
        if self.live:
            step = round(self.done[stage] * self.steps)
            self._draw(f"{self.stages[stage]} {step}/{self.steps}")
        elif maximum == 0:  # it starts
            print(f"{self.name}: {self.stages[stage]}, {self.steps} steps", file=self.stream,
                  flush=True)  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        """Leave the bar as it is and go on below it."""
        if self.live:
            print(file=self.stream, flush=True)

    def _draw(self, label: str) -> None:
        share = sum(self.done.values()) / len(self.stages)
        filled = round(BAR * share)
        line = f"{self.name} [{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%}  {label}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="", file=self.stream, flush=True)
