"""Interrupts at every model call and every step, and at every line that writes a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import torch

from . import executing, scenes, stand_ins, watching

FAMILIES = {"sd15"}
WRITERS = {"file", "tensors", "conditioning", "whole_file"}  # of rival_core.chain
LATEST = 3  # moments from the asking to the end of a step, where older hosts look


class Moments(list):
    """The moments of a run that there were so far; `broken`: what was on the disk at the last."""

    broken: list[str] = []


@contextmanager
def asked_at(number: int | None) -> Iterator[Moments]:
    """A list with an entry for every moment at which a user may interrupt; at one of them it is.

    The moments are each model call's start, and wherever else the host looks for an interrupt:
    before a node, at a step's end, in a decode. Newer hosts also look in every layer.
    """
    import comfy.model_management as management

    moments, inside, base = Moments(), [], stand_ins.model("sd15").model
    looked, call = management.throw_exception_if_processing_interrupted, base._apply_model

    def moment():
        moments.append(None)
        if len(moments) == number:
            management.interrupt_current_processing(True)

    def look():
        if not inside:
            moment()
        looked()

    def model_call(*args, **kwargs):
        moment()
        inside.append(True)
        try:
            return call(*args, **kwargs)
        finally:
            inside.pop()

    management.throw_exception_if_processing_interrupted = look
    base._apply_model = model_call
    try:
        yield moments
    finally:
        management.throw_exception_if_processing_interrupted = looked
        del base._apply_model


@contextmanager
def stopped_at_line(number: int | None) -> Iterator[Moments]:
    """A list with an entry for every line that writes a file; the run is stopped before one.

    Broken is what a process that is killed there would leave, and others see meanwhile.
    """
    import comfy.model_management as management

    lines = Moments()

    def line(frame, event, _):
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number:
                lines.broken = broken_files()
                raise management.InterruptProcessingException
        return line

    def call(frame, *_):
        file = Path(frame.f_code.co_filename)
        return line if file.parent.name == "chain" and file.stem in WRITERS else None

    sys.settrace(call)
    try:
        yield lines
    finally:
        sys.settrace(None)


class Scene:
    """One graph, how often it can be stopped in which way, and what it gives if it is not."""

    def __init__(self, name: str, stop, executor: executing.Executor):
        self.name, self.stop, self.prompt = name, stop, scenes.SCENES[name]()
        executor.forget()
        with stop(None) as places:
            self.expected = executor.run(self.prompt)
        self.places = len(places)
        assert self.expected.kind == "ran", f"{name}: {self.expected}"

    def interrupted(self, place: int, executor: executing.Executor) -> tuple[str, list[str]]:
        """Stops a run at this place, runs it anew, and tells what is wrong."""
        executor.forget()
        with self.stop(place) as places:
            outcome = executor.run(self.prompt)
        if outcome.kind == "ran" and len(places) < place:  # less was to be loaded than at first
            right = same(outcome.samples, self.expected.samples)
            return "over before", [] if right else ["another latent without an interrupt"]
        if outcome.kind != "interrupted":
            return "not interrupted", [f"{self.name}: not interrupted: {outcome}"]
        late = len(places) - place
        found = [f"it is interrupted {late} moments later"] if late > LATEST else []
        again = executor.run(self.prompt)
        if again.kind != "ran":
            found.append(f"the next run {again}")
        elif not same({**outcome.samples, **again.samples}, self.expected.samples):
            found.append("the next run gives another latent")
        found += [f"while it is written, {broken}" for broken in places.broken]
        found += broken_files()
        remove_files()
        return f"interrupted in {self.name}", found


def run(count: int, seed: int, at_moments=tuple(scenes.SCENES), by_line=("Save Chain",)) -> dict:
    """count: how many of all places, from number `seed` on; 0 means all of them."""
    outcomes, faults = Counter(), []
    with executing.executor() as executor, watching.watch() as watch:
        watch.begin(FAMILIES)
        found = [Scene(name, asked_at, executor) for name in at_moments]
        found += [Scene(name, stopped_at_line, executor) for name in by_line]
        every = places(found)
        for number in range(seed, seed + (min(count, len(every)) or len(every))):
            scene, place = every[number % len(every)]
            outcome, wrong = scene.interrupted(place, executor)
            outcomes[outcome] += 1
            replay = f"python tests/campaign interrupts --count 1 --seed {number}"
            where = f"{scene.name}, place {place} of {scene.places}"
            wrong += watch.faults(FAMILIES)
            faults += [f"{where}: {fault}\n    {replay}" for fault in wrong]
    return {**outcomes, "places": len(every), "faults": faults}


def places(found: list[Scene]) -> list[tuple[Scene, int]]:
    """The first place of every scene, then the second of every scene that has one, and so on."""
    rows = zip_longest(*([(scene, i + 1) for i in range(scene.places)] for scene in found))
    return [place for row in rows for place in row if place is not None]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for key in one for a, b in zip(one[key], other[key]))


def broken_files() -> list[str]:
    """Chains in RIVAL Load Chain's list that are not whole."""
    from comfyui_rival.nodes import host

    found = []
    for name in host.chain_names():
        try:
            host.load_chain(name)
        except Exception as error:
            found.append(f"a broken file is listed: {error}")
    return found


def remove_files() -> None:
    import folder_paths

    for path in Path(folder_paths.get_output_directory(), "scene").glob("*"):
        path.unlink()
