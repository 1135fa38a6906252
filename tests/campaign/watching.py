"""What must be as before after every run: the plain models, and no run's state is left."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import spies
import torch

from . import stand_ins


def vanilla(family: str) -> torch.Tensor:
    """What the plain model gives through core KSampler."""
    import nodes

    prompts = [stand_ins.prompt(family, seed) for seed in (5, 6)]
    photo = stand_ins.photo("photo", 0, family)
    with torch.inference_mode():
        sampled = nodes.common_ksampler(stand_ins.model(family), 1, 2, 4.0, "euler", "normal",
                                        *prompts, photo)
    return sampled[0]["samples"].clone()


class Watch:
    """Remembers the plain models as they were when they were first looked at."""

    def __init__(self, runs: list):
        self.runs, self.before = runs, {}

    def begin(self, families: set[str]) -> None:
        for family in families - self.before.keys():
            self.before[family] = vanilla(family)

    def faults(self, families: set[str]) -> list[str]:
        """What is not as before."""
        found = [f"{family} is not vanilla afterwards" for family in sorted(families)
                 if not torch.equal(vanilla(family), self.before[family])]
        if any(run() is not None for run in self.runs):
            gc.collect()
        alive = sum(run() is not None for run in self.runs)
        self.runs.clear()
        return [*found, f"{alive} runs are still alive"] if alive else found


@contextmanager
def watch() -> Iterator[Watch]:
    with spies.live_runs() as runs:
        yield Watch(runs)
