"""Progress on the terminal: one bar for the whole job, or plain lines when nobody watches."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

BAR = 30


class Progress:
    """Takes a client's reports. `stages`: a label for each node that counts; `steps`: its size."""

    def __init__(self, stages: dict[str, str], steps: int, stream: TextIO = sys.stdout):
        self.stages = stages
        self.steps = steps
        self.stream = stream
        self.done = dict.fromkeys(stages, 0)
        self.live = stream.isatty()

    def __call__(self, node: str, value: int, maximum: int) -> None:
        if node not in self.stages:
            return
        self.done[node] = max(self.done[node], value)
        if self.live:
            self._draw(f"{self.stages[node]} {value}/{maximum or self.steps}")
        elif maximum == 0:  # it starts
            print(f"{self.stages[node]}, {self.steps} steps", file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self.live:
            print(file=self.stream, flush=True)

    def _draw(self, label: str) -> None:
        share = sum(self.done.values()) / (self.steps * len(self.stages))
        filled = round(BAR * share)
        line = f"[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%}  {label}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="", file=self.stream, flush=True)
