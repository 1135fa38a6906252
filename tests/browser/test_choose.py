"""RIVAL Choose in the host's own frontend and both of its renderers: what is clicked is chosen."""

from __future__ import annotations

import itertools
import random

import pytest
from comfyui_rival.rival_core.choosing.choice import parse, picks
from comfyui_rival.rival_core.errors import RivalError
from prompts import node
from serving import PACK_NAME, pictures

pytestmark = [pytest.mark.host, pytest.mark.sampled]

NODE = "RivalChoose"
MODULE = f"/extensions/{PACK_NAME}/js/choice.js"
COLOURS = [0x200000, 0x4040F0, 0x30A030, 0xF0F0F0]  # of the pictures 1 to 4; the photo's is near 3
PHOTO, CHOOSE, SHOWN = "30", "40", "50"
WIRE = """() => {
    const node = app.graph.nodes.find((node) => node.type === "RivalChoose");
    const source = LiteGraph.createNode("PrimitiveString");
    app.graph.add(source);
    source.connect(0, node, node.inputs.findIndex((input) => input.name === "chosen"));
}"""
TICK = itertools.count()


def graph(chosen: str = "best 1") -> dict:
    """Four plain pictures, chosen from and shown, without a model."""
    fresh = next(TICK)  # what is cached is not run
    plain = [*COLOURS, 0x208020]
    prompt = {
        f"{i + 1}": node("EmptyImage", width=64, height=48 + fresh, batch_size=1, color=color)
        for i, color in enumerate(plain)
    }
    prompt[PHOTO] = prompt.pop("5")
    for i in range(3):
        first = ["1", 0] if i == 0 else [f"{10 + i - 1}", 0]
        prompt[f"{10 + i}"] = node("ImageBatch", image1=first, image2=[f"{i + 2}", 0])
    prompt[CHOOSE] = node(NODE, images=["12", 0], photo=[PHOTO, 0], chosen=chosen,
                          rank_by="palette")
    prompt[SHOWN] = node("PreviewImage", images=[CHOOSE, 0])
    return prompt


def open_graph(editor, prompt: dict) -> None:
    editor.page.evaluate("(prompt) => app.loadApiJson(prompt, 'test')", prompt)
    editor.page.wait_for_timeout(300)
    editor.centre(NODE, scale=1)


@pytest.fixture(scope="module")
def ran(page):
    """The graph after its first run."""
    open_graph(page, graph())
    assert page.run_to_its_end() == "execution_success"
    page.centre(NODE, scale=1)
    return page


@pytest.fixture
def editor(ran):
    """That, with the best one chosen."""
    ran.enter(NODE, "chosen", "best 1")
    return ran


def option(editor, number: int):
    return editor.page.locator(f".rival-sheet:visible [role=option][data-number='{number}']")


def marked(editor) -> list[int]:
    chosen = editor.page.locator(".rival-sheet:visible [aria-selected=true]").all()
    return [int(one.get_attribute("data-number")) for one in chosen]


def text(editor) -> str:
    return editor.widgets(NODE)["chosen"]


def test_the_pictures_are_shown_with_their_scores_and_the_best_is_marked(editor):
    shown = editor.page.locator(".rival-sheet:visible [role=option]")
    assert shown.count() == 4 and marked(editor) == [3]
    assert "palette" in option(editor, 2).get_attribute("aria-label")
    boxes = [one.bounding_box() for one in shown.all()]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] and min(b["width"] for b in boxes) > 80
    outline = editor.outline(NODE)
    assert boxes[3]["y"] + boxes[3]["height"] < outline["y"] + outline["height"]
    assert editor.page.locator(f"[data-node-id='{CHOOSE}'] img").count() == 0  # the host's preview
    assert not any(name.startswith("$$") for name in editor.widgets(NODE))


def test_a_click_is_the_widgets_text(editor):
    option(editor, 2).click()
    assert (text(editor), marked(editor)) == ("2", [2])
    option(editor, 4).click(modifiers=["Control"])
    option(editor, 1).click(modifiers=["Shift"])
    assert (text(editor), marked(editor)) == ("2, 4, 1", [1, 2, 4])
    option(editor, 4).click(modifiers=["Control"])
    assert (text(editor), marked(editor)) == ("2, 1", [1, 2])
    inputs = editor.prompt()[CHOOSE]["inputs"]
    assert inputs["chosen"] == "2, 1" and "pictures" not in inputs
    assert editor.node(NODE)["widgets_values"] == ["2, 1", "palette"]
    option(editor, 3).click()
    option(editor, 3).click(modifiers=["Control"])
    assert (text(editor), marked(editor)) == ("none", [])


def test_the_keyboard_chooses(editor):
    option(editor, 1).focus()
    for key in ("ArrowRight", "ArrowDown", "Space", "Home", "Control+Enter", "ArrowUp"):
        editor.page.keyboard.press(key)
    assert (text(editor), marked(editor)) == ("4, 1", [1, 4])
    focus = "() => document.activeElement.dataset.number"
    assert editor.page.evaluate(focus) == "1"
    editor.page.keyboard.press("Tab")
    assert editor.page.evaluate(focus) is None  # one stop for all pictures


def test_what_is_typed_is_marked(editor):
    for typed, expected in {"best 2": [2, 3], "1-2": [1, 2], "all": [1, 2, 3, 4], "9": [],
                            "none": [], "x": []}.items():
        editor.enter(NODE, "chosen", typed)
        assert marked(editor) == expected, typed


def test_undo_takes_one_click_back(editor):
    for number in (1, 4):
        option(editor, number).click()
        editor.page.wait_for_timeout(200)
    editor.page.keyboard.press("Control+z")
    editor.page.wait_for_timeout(1500)
    assert (text(editor), marked(editor)) == ("1", [1])  # with the pictures still there
    option(editor, 2).click()
    assert (text(editor), marked(editor)) == ("2", [2])


def test_only_what_comes_after_runs_again_and_it_is_what_runs_without_a_browser(editor, server):
    option(editor, 4).click()
    option(editor, 2).click(modifiers=["Control"])
    editor.page.evaluate(
        """() => { window.began = []; comfyAPI.api.api.addEventListener("executing",
            ({ detail }) => detail && window.began.push(String(detail))); }"""
    )
    assert editor.run_to_its_end() == "execution_success"
    assert set(editor.page.evaluate("() => window.began")) == {CHOOSE, SHOWN}
    assert "passed on: 4, 2 (of 4)" in editor.said(CHOOSE)
    outcome = server.run(editor.prompt())
    shown = pictures(server, outcome, SHOWN)
    assert [int(one[0, 0] @ [65536, 256, 1]) for one in shown.astype(int)] == [
        COLOURS[3], COLOURS[1]
    ]


def test_a_reload_and_a_shared_file_choose_the_same(editor):
    option(editor, 4).click()
    option(editor, 2).click(modifiers=["Control"])
    editor.page.wait_for_timeout(1500)  # the frontend keeps drafts now and then
    shared = editor.saved()
    editor.reload()
    editor.centre(NODE, scale=1)
    assert text(editor) == editor.prompt()[CHOOSE]["inputs"]["chosen"] == "4, 2"
    editor.load(shared)
    assert editor.prompt()[CHOOSE]["inputs"]["chosen"] == "4, 2"


def test_of_a_list_every_batch_is_chosen_from(page):
    """As core's nodes take lists; a number is that of a picture in each batch."""
    prompt = graph()
    prompt["20"] = node("RebatchImages", images=["12", 0], batch_size=2)
    prompt[CHOOSE]["inputs"]["images"] = ["20", 0]
    open_graph(page, prompt)
    assert page.run_to_its_end() == "execution_success"
    page.centre(NODE, scale=1)
    assert option(page, 1).count() == option(page, 2).count() == 2
    assert marked(page) == [2, 1]
    option(page, 2).last.click()
    assert (text(page), marked(page)) == ("2", [2, 2])
    page.page.evaluate(WIRE)  # which sets the text from now on
    assert option(page, 1).first.get_attribute("aria-disabled") == "true"
    option(page, 1).first.click(force=True)
    assert text(page) == "2"


def test_its_rules_are_the_nodes(page):
    random.seed(0)
    pieces = ["1", "2", "5", "16", "17", "0", "best", "best 1", "BEST3", "best 17", "all", "none",
              "1-3", "4 - 2", "2\u20135", "1-99", "x", "", " ", "1 2", "-1", "1.5", "best-1"]
    texts = [*pieces, *(random.choice(",;\uff0c\u3001").join(random.choices(pieces[:16], k=3))
                        for _ in range(200))]
    ranking = random.sample(range(1, 17), 16)
    theirs = page.page.evaluate(
        f"""async ([texts, ranking]) => {{
            const {{ picks }} = await import("{MODULE}");
            return texts.map((text) => picks(text, 16, ranking));
        }}""",
        [texts, ranking],
    )
    assert theirs == [numbers(text, ranking) for text in texts]
    assert sum(found is not None for found in theirs) > 50


def numbers(text: str, ranking: list[int]) -> list[int] | None:
    try:
        return picks(parse(text), len(ranking), ranking)
    except RivalError:
        return None
