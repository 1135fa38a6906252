"""The timeline on RIVAL Patch Model, in the host's own frontend and both of its renderers."""

from __future__ import annotations

import random

import pytest
import workflow
from browsing import page_of
from comfyui_rival.rival_core.gates import Gates
from editor import RENDERERS
from serving import PACK_NAME
from test_workflows import WORKFLOWS, load, quick

pytestmark = pytest.mark.host

NODE = "RivalPatchModel"
MODULE = f"/extensions/{PACK_NAME}/js/gates.js"
VARIATION = next(path for path in WORKFLOWS if path.stem == "variation")
STEPS = 6
UNUSED = iter((0.5, 0.6))


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request, browser, server):
    """A page in one of the two renderers."""
    with page_of(browser, server) as editor:
        editor.open(request.param).load(load(VARIATION))
        if request.param == "nodes 2.0" and editor.shows_no_widgets_of_packs():
            pytest.skip("this frontend's Nodes 2.0 is an experiment without packs' own widgets")
        yield editor
        assert editor.our_errors() == []


@pytest.fixture
def opened(renderer):
    """The variation template, the timeline in the middle of the page."""
    renderer.load(load(VARIATION))
    renderer.centre(NODE)
    return renderer


def handle(editor, gate: str):
    return editor.page.locator(f".rival-timeline:visible [data-gate={gate}]")


def shown(editor, gate: str) -> float:
    return float(handle(editor, gate).get_attribute("aria-valuenow"))


def value(editor, gate: str) -> float:
    return editor.widgets(NODE)[gate]


def drag(editor, gate: str, to: float) -> None:
    """With the mouse, to a fraction of the timeline."""
    lane = editor.page.locator(".rival-timeline:visible .lane").first.bounding_box()
    mouse = editor.page.mouse
    grip = handle(editor, gate).bounding_box()
    mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    mouse.down()
    mouse.move(lane["x"] + 0.5 * lane["width"], grip["y"] + 3, steps=3)
    mouse.move(lane["x"] + to * lane["width"], grip["y"] + 3, steps=3)
    mouse.up()
    editor.page.wait_for_timeout(300)


def test_a_dragged_gate_is_the_widgets_value(opened):
    before = opened.node(NODE)
    drag(opened, "replace_end", 0.7)
    assert value(opened, "replace_end") == shown(opened, "replace_end")
    assert value(opened, "replace_end") == pytest.approx(0.7, abs=0.011)
    after = opened.node(NODE)
    assert after["pos"] == before["pos"]  # the node did not move along
    position = list(opened.widgets(NODE)).index("replace_end")
    changed = [i for i, pair in enumerate(zip(before["widgets_values"], after["widgets_values"]))
               if pair[0] != pair[1]]
    assert changed == [position]
    inputs = next(n for n in opened.prompt().values() if n["class_type"] == NODE)["inputs"]
    assert inputs["replace_end"] == value(opened, "replace_end")
    assert "timeline" not in inputs


def test_no_gate_leaves_the_schedule(opened):
    drag(opened, "inject_start", -0.3)
    drag(opened, "normalize_end", 1.3)
    assert (value(opened, "inject_start"), value(opened, "normalize_end")) == (0, 1)


def test_the_keyboard_moves_a_gate(opened):
    handle(opened, "inject_end").focus()
    for key in ("Home", "ArrowRight", "PageUp", "Shift+ArrowUp", "ArrowLeft"):
        opened.page.keyboard.press(key)
    assert value(opened, "inject_end") == shown(opened, "inject_end") == 0.2
    tabs = [opened.page.evaluate("() => document.activeElement.dataset.gate")]
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("() => document.activeElement.dataset.gate") not in [None, *tabs]


def test_it_follows_the_widgets(opened):
    opened.enter(NODE, "normalize_end", 0.85)
    assert shown(opened, "normalize_end") == 0.85


def test_undo_takes_a_drag_back_and_the_next_one_still_counts(opened):
    drag(opened, "replace_end", 0.7)
    opened.page.keyboard.press("Control+z")
    opened.page.wait_for_timeout(1500)
    assert value(opened, "replace_end") == shown(opened, "replace_end") == 0.4
    drag(opened, "replace_end", 0.6)
    assert value(opened, "replace_end") == shown(opened, "replace_end") != 0.4


def test_a_reload_shows_the_same(opened):
    drag(opened, "replace_end", 0.7)
    dragged = value(opened, "replace_end")
    opened.page.wait_for_timeout(1500)  # the frontend keeps drafts now and then
    opened.reload()
    opened.centre(NODE)
    assert value(opened, "replace_end") == shown(opened, "replace_end") == dragged != 0.4


def test_the_saved_workflow_holds_it(opened):
    drag(opened, "replace_end", 0.7)
    opened.save_as("dragged")
    stored = next(n for n in opened.stored_workflow("dragged")["nodes"] if n["type"] == NODE)
    assert stored["widgets_values"][1] == value(opened, "replace_end") != 0.4


def test_a_gate_that_a_wire_sets_cannot_be_dragged(opened):
    opened.wire_a_number(NODE, "replace_end")
    assert handle(opened, "replace_end").get_attribute("aria-disabled") == "true"
    drag(opened, "replace_end", 0.7)
    assert value(opened, "replace_end") == 0.4


def test_it_shows_the_steps_of_a_chain_that_has_run(opened, object_info):
    assert opened.page.locator(".rival-timeline .steps i").count() == 0
    prompt = workflow.to_prompt(load(VARIATION), object_info)
    for node_id, node in prompt.items():
        opened.set_widgets(node_id, quick(node))
    drag(opened, "replace_end", next(UNUSED))  # what is cached is not run, and tells nothing
    opened.run(pictures=1)
    opened.centre(NODE)
    assert opened.page.locator(".rival-timeline:visible .steps i").count() == STEPS
    parts = opened.page.locator(".rival-timeline:visible .lane.attention .part")
    assert sum(int(part.get_attribute("data-steps")) for part in parts.all()) == STEPS


def test_its_rules_are_the_samplers(renderer):
    random.seed(0)
    fractions = [0.0, 0.04, 0.1, 0.4, 0.6, 1.0, *(round(random.random(), 2) for _ in range(6))]
    timesteps = [*range(1, 1000, 7), 999, *(1000 * (1 - f) + d for f in fractions for d in (0, 1))]
    names = list(vars(Gates()))
    for _ in range(40):
        gates = Gates(*random.choices(fractions, k=4))
        ours = [[gates.attention(t).value, gates.normalizes(t)] for t in timesteps]
        theirs = renderer.page.evaluate(
            f"""async ([gates, timesteps]) => {{
                const {{ attention, normalizes }} = await import("{MODULE}");
                return timesteps.map((t) => [attention(gates, t), normalizes(gates, t)]);
            }}""",
            [{name: getattr(gates, name) for name in names}, timesteps],
        )
        assert theirs == ours, gates
