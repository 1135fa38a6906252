"""RIVAL Edit and RIVAL Pull as any client of a headless ComfyUI meets them."""

from __future__ import annotations

import prompts
import pytest
from serving import pictures

np = pytest.importorskip("numpy")  # both come with a host's requirements
comfy_process = pytest.importorskip("comfy_process")

pytestmark = pytest.mark.host


def edit(**changes) -> dict:
    """A photo, what it is (nothing said), and what it shall be; of three steps, unguided."""
    given = {name: [source, 0] for name, source in (
        ("model", "checkpoint"), ("latent", "encode"), ("positive", "prompt"),
        ("source", "empty"), ("negative", "empty"))}  # fmt: skip
    widgets = {"seed": 1, "steps": 4, "scheduler": "simple", "cfg": 1.0, "source_cfg": 1.0,
               "change": 0.75, "path": "smooth", "average": 1, "batch_size": 1}  # fmt: skip
    used = {name: node for name, node in prompts.exemplar().items() if name != "invert"}
    return {**used, "edit": prompts.node("RivalEdit", **{**given, **widgets, **changes}),
            **prompts.images("edit")}


def test_it_reports_its_steps_with_previews_and_an_interrupt_leaves_nothing_behind(server):
    outcome = server.run(edit())
    before = pictures(server, outcome)
    assert before.shape == (1, prompts.HEIGHT, prompts.WIDTH, 3) and before.std() > 5
    reported = [(value, most) for name, value, most in outcome.progress if name == "edit"]
    assert reported[-1] == (3, 3) and {most for _, most in reported} == {3}
    assert outcome.previews >= 2 and outcome.text("edit") == ""

    def interrupt(name, value, maximum):
        if name == "edit" and value == 2:
            server.interrupt()

    with pytest.raises(comfy_process.Interrupted):
        server.run(edit(seed=3, steps=40), on_progress=interrupt)
    assert np.array_equal(pictures(server, server.run(edit())), before)


def test_what_was_not_meant_is_told_on_the_node_or_refused_when_queued(server):
    assert "comes back as it is" in server.run(edit(positive=["empty", 0])).text("edit")
    pull = prompts.node(
        "RivalPull", model=["checkpoint", 0], strength=0.9, start=0.0, end=0.25, fade="none")
    with pytest.raises(comfy_process.ExecutionError, match=r"RIVAL Pull: there is no photo"):
        server.queue(edit(model=["pull", 0]) | {"pull": pull})
