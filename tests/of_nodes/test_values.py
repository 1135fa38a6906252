"""What widgets may hold: refused when a prompt is queued, and of a link when the node runs."""

from __future__ import annotations

import math

import pytest
import queueing
import torch
from comfyui_rival.rival_core.values import choice, flag, number, shown, whole_number
from queueing import LINK

pytestmark = pytest.mark.host


def checked_nodes() -> list[type]:
    from comfyui_rival.nodes import NODES

    return [node for node in NODES if node.__name__ not in ("RivalSaveChain", "RivalLoadChain")]


def run(node: type, **inputs):
    """A node as it runs with these inputs, the widgets' defaults and nothing connected."""
    unconnected = {i.id: None for i in node.define_schema().inputs}
    return node.execute(**{**unconnected, **queueing.widgets(node), **inputs})


def junk(widget) -> list:
    """What a link of any type may bring, and the widget could not hold."""
    from comfy_api.latest import io

    if isinstance(widget, io.Combo.Input):
        return [None, "", "Shuffle", 1, True, ["live"], object(), torch.zeros(2, 2), "x" * 9999]
    if isinstance(widget, io.Int.Input):
        return [None, 2.0, 2.5, "2", "x", True, math.nan, widget.min - 1, widget.max + 1, 2**64]
    if isinstance(widget, io.Float.Input):
        return [None, "0.5", True, math.nan, math.inf, widget.min - 1, widget.max + 1, 10**400]
    if isinstance(widget, io.Boolean.Input):
        return [None, "true", 2, 1.0]
    return [None, 5, ["a"]]


def test_a_linked_value_of_another_kind_gets_one_sentence():
    from comfy_api.latest import io

    count = 0
    for node in checked_nodes():
        schema = node.define_schema()
        for widget in (i for i in schema.inputs if isinstance(i, io.WidgetInput)):
            for value in junk(widget):
                with pytest.raises(ValueError) as error:
                    run(node, **{widget.id: value})
                sentence = str(error.value)
                assert sentence.startswith(f"{schema.display_name}: {widget.id} is ")
                assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 250
                count += 1
    assert count > 200


def test_a_link_that_brings_something_else_gets_one_sentence():
    from comfyui_rival.nodes import RivalKSampler, RivalNoise, RivalSigmas

    for node in (RivalNoise, RivalSigmas):
        with pytest.raises(ValueError, match=r"^RIVAL \w+: chain is 'photo'.*RIVAL_CHAIN\.$"):
            run(node, chain="photo")
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: model is None: connect a MODEL\.$"):
        run(RivalKSampler)


def test_values_are_taken_as_the_widgets_own_type():
    np = pytest.importorskip("numpy")
    assert type(whole_number("n", np.int64(2), 1)) is int
    assert type(number("x", 1, 0.0, 1.0)) is type(number("x", np.float32(1), 0.0, 1.0)) is float
    assert flag("f", 1) is True and flag("f", False) is False
    assert choice("word", "b", ("a", "b")) == "b"


def test_a_value_is_shown_on_one_short_line():
    assert shown("a\nb") == r"'a\nb'" and len(shown("x" * 9999)) <= 100
    assert shown(torch.zeros(2, 2)) == "a Tensor"


# When a prompt is queued. What each rule refuses is in test_refusals.


def refused(monkeypatch, name: str, **inputs) -> str:
    """The details of the queue's errors."""
    import comfyui_rival.nodes as pack

    found = queueing.errors(monkeypatch, getattr(pack, name), **inputs)
    return "\n".join(error["details"] for error in found)


def test_new_nodes_are_not_refused(monkeypatch):
    needed = {"RivalBlendedGuidance": {"mask": LINK}, "RivalPull": {"latent": LINK}}
    for node in checked_nodes():
        assert queueing.errors(monkeypatch, node, **needed.get(node.__name__, {})) == []


def test_whatever_comes_by_links_waits(monkeypatch):
    for node in checked_nodes():
        links = {i.id: LINK for i in node.define_schema().inputs}
        assert queueing.errors(monkeypatch, node, **links) == []


@pytest.mark.parametrize("inputs", [
    {"cfg": 3.0, "negative": LINK}, {"cfg": LINK}, {"schedule": LINK, "steps": 3},
    {"steps": LINK}, {"steps": 3, "sigmas": LINK}, {"steps": 3, "schedule": "sgm_uniform"},
    {"solver": LINK, "features": "cached"}, {"solver": "anderson", "features": "cached"},
])
def test_what_may_be_right_is_not_refused(monkeypatch, inputs):
    assert refused(monkeypatch, "RivalInvert", **inputs) == ""


def test_the_widgets_ranges_hold_when_queued(monkeypatch):
    """The host's own checks, or ours where it leaves a value to us."""
    from comfy_api.latest import io

    for node in checked_nodes():
        for widget in node.define_schema().inputs:
            if isinstance(widget, io.Int.Input | io.Float.Input):
                for value in (widget.min - 1, widget.max + 1, math.nan):
                    found = queueing.errors(monkeypatch, node, mask=LINK, **{widget.id: value})
                    assert any(widget.id in error["details"] for error in found), widget.id
            if isinstance(widget, io.Combo.Input):
                found = queueing.errors(monkeypatch, node, mask=LINK, **{widget.id: "Shuffle"})
                assert any(f": {widget.id} is 'Shuffle'" in error["details"] for error in found)


def test_links_of_a_wrong_type_are_still_the_hosts_to_refuse(monkeypatch):
    import nodes

    class Picture(queueing.Anything):
        RETURN_TYPES = ("IMAGE",)

    monkeypatch.setattr(queueing, "Anything", Picture)
    assert nodes.NODE_CLASS_MAPPINGS.get("Anything") is None
    assert "mismatch" in refused(monkeypatch, "RivalSigmas")
