"""Words of others are text wherever the browser shows them: no tag of theirs becomes an element."""

from __future__ import annotations

import itertools

import pytest
from chain_files import Parts, sound_file
from prompts import node
from serving import CHECKPOINT
from serving import listed_chains as listed

pytestmark = [pytest.mark.host, pytest.mark.sampled]

TAG = "<img src=hostile onerror=PWNED=1>"
# Without a slash, for it names files, too, and short enough for refusals to repeat it whole.
HOSTILE = f"&lt;'\" {TAG} [[x|javascript:PWNED=1]] end"
LOAD, SAVE, REPORT = "1", "2", "3"
FRESH = itertools.count()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    return sound_file(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def editor(page):
    """After the test no script of theirs has run, and no element is theirs."""
    yield page
    page.page.wait_for_timeout(300)
    assert page.page.evaluate("() => window.PWNED") is None
    theirs = "img[src*=hostile], a[href^=javascript]"
    assert page.page.locator(theirs).count() == 0
    page.page.keyboard.press("Escape")
    page.errors.clear()  # the browser notes what a test has refused


def put(server_folder, content: bytes, name: str) -> str:
    (server_folder / "input" / name).write_bytes(content)
    return name


def graph_of(file: str, prefix: str = "plain") -> dict:
    """A file's chain, saved and reported on."""
    return {
        LOAD: node("RivalLoadChain", chain_file=file),
        SAVE: node("RivalSaveChain", chain=[LOAD, 0], filename_prefix=f"{prefix}{next(FRESH)}"),
        REPORT: node("RivalChainReport", chain=[LOAD, 0]),
    }


def open_graph(editor, graph: dict) -> None:
    editor.page.evaluate("(graph) => app.loadApiJson(graph, 'test')", graph)
    editor.page.wait_for_timeout(300)
    for node_id, entry in graph.items():  # a list's widget may have kept its first entry
        if "chain_file" in entry["inputs"]:
            editor.set_widgets(node_id, entry["inputs"])
    editor.command("Comfy.Canvas.FitView")


def test_names_of_files_and_folders(editor, server_folder, sound):
    """In the name that is loaded, and in the folder and the name that is saved."""
    name = put(server_folder, sound, f"loaded {HOSTILE}.safetensors")
    open_graph(editor, graph_of(name, f"folder {HOSTILE}/{HOSTILE}"))
    assert editor.run_to_its_end() == "execution_success"
    said = editor.said(SAVE)
    assert said.startswith(f"saved as folder {HOSTILE}/{HOSTILE}")
    assert "latent 3 x 2" in editor.said(LOAD)
    assert "3 steps" in editor.said(REPORT)


def test_a_chain_files_fields(editor, server_folder, sound):
    """Refused or shown: they are never run."""
    parts = Parts(sound)
    parts.description["model"]["family"] = f"{TAG} family"
    parts.description["schedule"] = f"{TAG} schedule"
    open_graph(editor, graph_of(put(server_folder, parts.join(), "fields.safetensors")))
    ended = editor.run_to_its_end()
    if ended == "execution_success":
        assert editor.said(LOAD).startswith(f"{TAG} family, ")
        assert f"schedule {TAG} schedule" in editor.said(LOAD)
    else:
        assert "fields.safetensors" in error_of(editor)


def error_of(editor) -> str:
    """All that the frontend has to say of a run that it or the server has refused."""
    details = editor.page.get_by_role("button", name="View details")
    details.or_(editor.page.get_by_role("dialog")).first.wait_for()
    if details.count():
        details.first.click()
        more = editor.page.get_by_role("button", name="Info for")
        more.or_(editor.page.get_by_text("RivalError")).first.wait_for()
        for button in more.all():
            button.click()
    return editor.page.evaluate("() => document.body.innerText")


def test_a_widgets_text_in_an_error(editor):
    words = HOSTILE.replace(" ", "/")  # one word
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": node("RivalBlendedGuidance", model=["1", 0], outside=1.0, keep_photo=False,
                  prompt=HOSTILE, words=words, threshold=0.5, blur=0, resolution="auto"),
        "3": node("MaskPreview", mask=["2", 1]),
    }  # fmt: skip
    open_graph(editor, graph)
    editor.page.get_by_role("button", name="Run", exact=True).first.click()
    assert "the words" in (said := error_of(editor)) and TAG.replace(' ', '/') in said


def test_a_missing_files_name(editor):
    open_graph(editor, graph_of(f"missing {HOSTILE}.safetensors"))
    editor.page.get_by_role("button", name="Run", exact=True).first.click()
    assert "is not there" in (said := error_of(editor)) and TAG in said


def test_a_refused_uploads_name(editor):
    editor.add("RivalLoadChain")
    editor.centre("RivalLoadChain")
    editor.page.route("**/upload/image", lambda route: route.fulfill(status=413))
    with editor.page.expect_file_chooser() as chooser:
        editor.press("RivalLoadChain", "upload")
    name = f"{HOSTILE}.safetensors"
    chooser.value.set_files([{"name": name, "mimeType": "text/plain", "buffer": b"x"}])
    editor.page.get_by_text(f"{name} was not uploaded").first.wait_for()
    editor.page.unroute("**/upload/image")


def test_an_uploaded_files_name(editor, sound):
    editor.add("RivalLoadChain")
    put = """async ([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        return await app.graph.nodes[0].onDragDrop(new DragEvent("drop", { dataTransfer: data }));
    }"""
    assert editor.page.evaluate(put, [f"sent {TAG}.safetensors", list(sound)])
    taken = f"sent {TAG}.safetensors".replace("<", "_")
    editor.page.wait_for_function(f"() => app.graph.nodes[0].widgets[0].value === '{taken}'")
    assert taken in editor.page.evaluate("() => app.graph.nodes[0].widgets[0].options.values")


def test_a_list_of_files_holds_no_tag(server, server_folder, sound):
    put(server_folder, sound, f"listed {TAG}.safetensors")
    put(server_folder, sound, "listed & 'sound'.safetensors")
    names = [name for name in listed(server) if name.startswith("listed ")]
    assert names == ["listed & 'sound'.safetensors"]


def test_whatever_a_node_says(editor):
    """On the node, and as a toast, since it is collapsed."""
    editor.add("RivalInvert")
    output = {"text": [HOSTILE, HOSTILE], "notices": [f"toast {HOSTILE}"]}
    node_id = editor.page.evaluate(
        """(output) => {
            const [node] = app.graph.nodes, id = String(node.id);
            node.collapse(true);
            const detail = { node: id, display_node: id, output, prompt_id: "none" };
            comfyAPI.api.api.dispatchEvent(new CustomEvent("executed", { detail }));
            return id;
        }""",
        output,
    )
    editor.page.get_by_role("alert").get_by_text(f"toast {HOSTILE}").wait_for()
    editor.page.evaluate("() => app.graph.nodes[0].collapse(true)")
    editor.centre("RivalInvert")
    assert editor.said(node_id) == f"{HOSTILE}\n{HOSTILE}"
    assert editor.page.locator(".rival-notices:visible").inner_text() == f"{HOSTILE}\n{HOSTILE}"
