"""The upload button on RIVAL Load Chain, in both renderers of the host's own frontend."""

from __future__ import annotations

import pytest
from prompts import saving
from serving import listed_chains as listed

pytestmark = [pytest.mark.host, pytest.mark.sampled]

NODE = "RivalLoadChain"
NONE_YET = "(none yet: save or upload a chain)"
EMPTY = """(none) => {
    const widget = app.graph.nodes[0].widgets[0];
    widget.options.values = [none];
    widget.value = none;
}"""  # as on a server without a chain


@pytest.fixture(scope="module")
def chain(server) -> bytes:
    """A chain file's content."""
    (saved,) = server.run(saving("button/chain")).outputs["save"]["chains"]
    return server.view(saved)


@pytest.fixture
def editor(page):
    """A RIVAL Load Chain node and nothing else."""
    page.add(NODE)
    page.centre(NODE)
    return page


def upload(editor, name: str, content: bytes) -> None:
    with editor.page.expect_file_chooser() as chooser:
        editor.press(NODE, "upload")
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    chooser.value.set_files([file])


def test_the_chosen_file_is_uploaded_and_selected(editor, server, chain, request):
    name = f"sent-{abs(hash(request.node.name))}.safetensors"
    upload(editor, name, chain)
    editor.page.wait_for_function(f"() => app.graph.nodes[0].widgets[0].value === '{name}'")
    assert name in listed(server)
    assert editor.node(NODE)["widgets_values"] == [name]
    (node,) = editor.prompt().values()
    assert node["inputs"].keys() == {"chain_file"}


def test_the_entry_for_no_chain_goes_with_the_first_chain(editor, chain):
    value = "app.graph.nodes[0].widgets[0].value"
    editor.page.evaluate(EMPTY, NONE_YET)
    upload(editor, "first.safetensors", chain)
    editor.page.wait_for_function(f"() => {value}.startsWith('first')")
    offered = editor.page.evaluate("() => app.graph.nodes[0].widgets[0].options.values")
    assert offered == [editor.widgets(NODE)["chain_file"]]

    editor.page.evaluate(EMPTY, NONE_YET)
    editor.page.evaluate("() => app.refreshComboInNodes()")  # R
    editor.page.wait_for_function(f"() => {value} !== '{NONE_YET}'")


def test_a_dropped_file_is_uploaded_and_others_are_left_alone(editor, server, chain):
    drop = """async ([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        return await app.graph.nodes[0].onDragDrop(new DragEvent("drop", { dataTransfer: data }));
    }"""
    assert editor.page.evaluate(drop, ["photo.png", [1]]) is False
    assert editor.page.evaluate(drop, ["dropped.safetensors", list(chain)]) is True
    value = "() => app.graph.nodes[0].widgets[0].value.startsWith('dropped')"
    editor.page.wait_for_function(value)
    assert editor.widgets(NODE)["chain_file"] in listed(server)


def test_a_refused_upload_is_told(editor):
    before = editor.widgets(NODE)["chain_file"]
    editor.page.route("**/upload/image", lambda route: route.fulfill(status=413))
    upload(editor, "large.safetensors", b"large")
    told = editor.page.get_by_text("large.safetensors was not uploaded: the server answered 413")
    told.first.wait_for()
    editor.page.unroute("**/upload/image")
    assert editor.widgets(NODE)["chain_file"] == before
    editor.errors.clear()  # the browser itself notes the refusal
