"""The timeline on RIVAL Patch Model, in the host's own frontend and both of its renderers."""

from __future__ import annotations

import itertools
import random

import pytest
import workflow
from comfyui_rival.rival_core.inversion.schedule import rival_timesteps
from comfyui_rival.rival_core.steering.gates import Gates
from serving import PACK_NAME
from templates import VARIATION, load, quick

pytestmark = [pytest.mark.host, pytest.mark.sampled]

NODE = "RivalPatchModel"
MODULE = f"/extensions/{PACK_NAME}/js/gates.js"
STEPS = 6
UNUSED = iter((0.5, 0.6))
OPACITY = """(it) => {  // Nodes 2.0 dims the whole node
    let opacity = 1;
    for (; it; it = it.parentElement) opacity *= getComputedStyle(it).opacity;
    return opacity;
}"""


@pytest.fixture
def editor(page):
    """The variation template, the timeline in the middle of the page."""
    page.load(load(VARIATION))
    page.centre(NODE)
    return page


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


def test_a_dragged_gate_is_the_widgets_value(editor):
    before = editor.node(NODE)
    drag(editor, "replace_end", 0.7)
    assert value(editor, "replace_end") == shown(editor, "replace_end")
    assert value(editor, "replace_end") == pytest.approx(0.7, abs=0.011)
    after = editor.node(NODE)
    assert len(after["widgets_values"]) == len(editor.widgets(NODE)) - 1  # without the timeline
    assert after["pos"] == before["pos"]  # the node did not move along
    position = list(editor.widgets(NODE)).index("replace_end")
    changed = [i for i, pair in enumerate(zip(before["widgets_values"], after["widgets_values"]))
               if pair[0] != pair[1]]
    assert changed == [position]
    inputs = next(n for n in editor.prompt().values() if n["class_type"] == NODE)["inputs"]
    assert inputs["replace_end"] == value(editor, "replace_end")
    assert "timeline" not in inputs


def test_it_stays_as_wide_as_its_node(editor):
    """Clicking it selects the node, whose widgets a side panel then lists."""
    timeline = editor.page.locator(".rival-timeline:visible")
    before = timeline.bounding_box()["width"]
    assert before > 0.8 * editor.outline(NODE)["width"]
    drag(editor, "replace_end", 0.7)
    editor.page.wait_for_timeout(700)
    assert timeline.bounding_box()["width"] == pytest.approx(before, rel=0.01)
    assert editor.page.get_by_text("timeline", exact=True).count() == 0  # no row of the panel's


def test_it_is_dimmed_where_its_node_is_bypassed(editor):
    for mode, opacity in ((4, pytest.approx(0.45, abs=0.1)), (0, 1)):
        editor.set_mode(NODE, mode)
        editor.page.wait_for_timeout(500)
        assert editor.page.locator(".rival-timeline:visible").evaluate(OPACITY) == opacity


def test_labels_are_whole_and_as_long_as_there_is_room(page):
    """Of the element alone. At 0.4 the last step lies right at both gates."""
    said = page.page.evaluate(
        f"""async () => {{
            const {{ Timeline }} = await import("{MODULE.replace("gates", "timeline")}");
            const timeline = new Timeline(() => {{}});
            document.body.append(timeline.element);
            const read = () => [...timeline.element.querySelectorAll(".part")].map((part) => {{
                const [room, words] = [part.clientWidth, part.firstChild.offsetWidth];
                if (words > room) throw Error(`${{words}} in ${{room}}`);
                return [part.className, part.textContent, part.title.length > 200];
            }});
            const gates = {{ inject_start: 0, replace_end: 0.4, inject_end: 1, normalize_end: .4 }};
            const state = {{ gates, locked: [], strength: 1, timesteps: [801, 701, 601, 1] }};
            const found = [];
            for (const [width, slack] of [[500, null], [150, null], [150, 1e-3], [30, null]]) {{
                timeline.element.style.width = `${{width}}px`;
                timeline.show({{ ...state, slack }});
                found.push(read());
            }}
            timeline.element.style.width = "500px"; // without being shown anew
            await new Promise((done) => setTimeout(done, 200));
            found.push(read());
            timeline.element.remove();
            return found;
        }}"""
    )
    wide, narrow, flow, none, again = said
    assert [text for _, text, _ in wide] == [
        "only the photo · 2", "photo and itself · 2", "photo's colours · 3", "own colours · 1"]
    assert [text for _, text, _ in narrow] == [
        "photo · 2", "both · 2", "photo's · 3", "own colours · 1"]
    assert [why for *_, why in wide] == [True, False, True, False]
    assert not any(why for *_, why in flow)  # there both lanes count alike
    assert all(len(text) < 3 for _, text, _ in none)
    assert again == wide


def test_no_gate_leaves_the_schedule(editor):
    drag(editor, "inject_start", -0.3)
    drag(editor, "normalize_end", 1.3)
    for read in (value, shown):
        assert (read(editor, "inject_start"), read(editor, "normalize_end")) == (0, 1)


def test_it_takes_its_keys_and_asks_for_no_value_outside_the_schedule(page):
    """Of the element alone: ComfyUI's own widgets would cut such a value, too."""
    asked, taken = page.page.evaluate(
        f"""async () => {{
            const {{ Timeline }} = await import("{MODULE.replace("gates", "timeline")}");
            const asked = [], taken = [];
            const timeline = new Timeline((gate, value) => asked.push(value));
            const gates = {{ inject_start: 0.05, replace_end: 1, inject_end: 0, normalize_end: 0 }};
            timeline.show({{ gates, locked: [], strength: 1, timesteps: [] }});
            const press = (gate, key) => {{
                const event = new KeyboardEvent("keydown", {{ key, cancelable: true }});
                timeline.element.querySelector(`[data-gate=${{gate}}]`).dispatchEvent(event);
                taken.push(event.defaultPrevented);
            }};
            press("inject_start", "PageDown");
            press("replace_end", "ArrowRight");
            press("inject_end", "ArrowLeft");
            press("inject_end", "Tab");
            return [asked, taken];
        }}"""
    )
    assert asked == [0]
    assert taken == [True, True, True, False]


def test_the_keyboard_moves_a_gate(editor):
    handle(editor, "inject_end").focus()
    for key in ("Home", "ArrowRight", "PageUp", "Shift+ArrowUp", "ArrowLeft"):
        editor.page.keyboard.press(key)
    assert value(editor, "inject_end") == shown(editor, "inject_end") == 0.2
    tabs = [editor.page.evaluate("() => document.activeElement.dataset.gate")]
    editor.page.keyboard.press("Tab")
    assert editor.page.evaluate("() => document.activeElement.dataset.gate") not in [None, *tabs]


def test_it_follows_the_widgets(editor):
    editor.enter(NODE, "normalize_end", 0.85)
    assert shown(editor, "normalize_end") == 0.85


def test_undo_takes_a_drag_back_and_the_next_one_still_counts(editor):
    drag(editor, "replace_end", 0.7)
    editor.page.keyboard.press("Control+z")
    editor.page.wait_for_timeout(1500)
    assert value(editor, "replace_end") == shown(editor, "replace_end") == 0.4
    drag(editor, "replace_end", 0.6)
    assert value(editor, "replace_end") == shown(editor, "replace_end") != 0.4


def test_a_reload_shows_the_same(editor):
    drag(editor, "replace_end", 0.7)
    dragged = value(editor, "replace_end")
    editor.page.wait_for_timeout(1500)  # the frontend keeps drafts now and then
    editor.reload()
    editor.centre(NODE)
    assert value(editor, "replace_end") == shown(editor, "replace_end") == dragged != 0.4


def test_the_saved_workflow_holds_it(editor):
    drag(editor, "replace_end", 0.7)
    editor.save_as("dragged")
    stored = next(n for n in editor.stored_workflow("dragged")["nodes"] if n["type"] == NODE)
    assert stored["widgets_values"][1] == value(editor, "replace_end") != 0.4


def test_a_gate_that_a_wire_sets_cannot_be_dragged(editor):
    editor.wire_a_number(NODE, "replace_end")
    assert handle(editor, "replace_end").get_attribute("aria-disabled") == "true"
    drag(editor, "replace_end", 0.7)
    assert value(editor, "replace_end") == 0.4


def test_it_shows_the_steps_of_a_chain_that_has_run(editor, object_info):
    assert editor.page.locator(".rival-timeline .steps i").count() == 0
    prompt = workflow.to_prompt(load(VARIATION), object_info)
    for node_id, node in prompt.items():
        editor.set_widgets(node_id, quick(node))
    replace_end = next(UNUSED)  # what is cached is not run, and tells nothing
    for gate, fraction in zip(vars(Gates()), (0.2, replace_end, 0.7, 0.4)):
        editor.enter(NODE, gate, fraction)
    editor.run(pictures=1)
    editor.centre(NODE)
    assert editor.page.locator(".rival-timeline:visible .steps i").count() == STEPS
    gates = Gates(0.2, replace_end, 0.7, 0.4)
    timesteps = [*reversed(rival_timesteps(STEPS))]
    kinds = itertools.groupby(gates.attention(t).value for t in timesteps)
    runs = [(kind, len(list(run))) for kind, run in kinds]
    assert [kind for kind, _ in runs] == ["plain", "replace", "concat", "plain"]
    assert parts_of(editor, "attention") == runs
    colours = sum(map(gates.normalizes, timesteps))
    assert parts_of(editor, "colours") == [("normalized", colours), ("own", STEPS - colours)]


def parts_of(editor, lane: str) -> list[tuple[str, int]]:
    """What a lane shows, left to right: (kind, number of steps)."""
    parts = editor.page.locator(f".rival-timeline:visible .lane.{lane} .part").all()
    return [(part.get_attribute("class").split()[-1], int(part.get_attribute("data-steps")))
            for part in parts]


def test_its_rules_are_the_samplers(page):
    random.seed(0)
    fractions = [0.0, 0.04, 0.1, 0.4, 0.6, 1.0, *(round(random.random(), 2) for _ in range(6))]
    timesteps = [*range(1, 1000, 7), 999, *(1000 * (1 - f) + d for f in fractions for d in (0, 1))]
    names = list(vars(Gates()))
    for slack in (None, 1e-3) * 20:
        gates = Gates(*random.choices(fractions, k=4))
        ours = [[gates.attention(t, slack).value, gates.normalizes(t, slack)] for t in timesteps]
        theirs = page.page.evaluate(
            f"""async ([gates, timesteps, slack]) => {{
                const {{ attention, normalizes }} = await import("{MODULE}");
                return timesteps.map((t) => [
                    attention(gates, t, slack), normalizes(gates, t, slack),
                ]);
            }}""",
            [{name: getattr(gates, name) for name in names}, timesteps, slack],
        )
        assert theirs == ours, gates
