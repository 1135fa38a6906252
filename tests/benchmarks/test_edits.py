"""What the benchmark of edits measures: known answers on scenes that are drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "benchmarks"), str(REPO / "demo" / "model")]

import edit_measures
import edits
from edit_measures import COLOR, KIND, Case, middle
from edit_methods import UNET, Method
from render import render
from scenes import Attributes, make_scene


def case(change: str) -> Case:
    """Two white stars that are to be blue, or circles."""
    scene = make_scene(4, Attributes(2, "white", "star", "red", "striped"))
    if change == KIND:
        changed = replace(scene, attributes=replace(scene.attributes, kind="circle"))
    else:
        changed = replace(scene, attributes=replace(scene.attributes, color="blue"),
                          style=replace(scene.style, color=middle("blue")))
    return Case(scene, changed, None, render([scene])[0])


def seen(change: str, image: torch.Tensor) -> list[str]:
    return edit_measures.seen(change, [case(change)], [image])


def test_a_perfect_change_of_colour_moves_nothing_else():
    perfect = render([case(COLOR).changed])[0]
    assert seen(COLOR, perfect) == ["1 of 1", "0", "0.0"]
    done, off, moved = seen(COLOR, case(COLOR).shown)
    assert done == "0 of 1" and int(off) > 30 and moved == "0.0"


def test_the_right_colour_elsewhere_is_no_edit():
    perfect = render([case(COLOR).changed])[0]
    done, _, moved = seen(COLOR, perfect.flip(2))
    assert done == "0 of 1" and float(moved) > 10


def test_what_moves_outside_the_shapes_counts_in_levels():
    moved = (render([case(COLOR).changed])[0] * 0.9 + 0.1 * case(COLOR).shown + 10 / 255)
    assert seen(COLOR, moved)[2] == "10.0"


def test_a_new_kind_may_cover_more_and_is_what_the_judge_says(monkeypatch):
    perfect = render([case(KIND).changed])[0]
    said = []
    monkeypatch.setattr(edit_measures, "judge", lambda: "judge")
    monkeypatch.setattr(edit_measures, "agreement", lambda judge, images, wanted: (
        said.append(wanted), {"kind": torch.ones(len(images))})[1])
    assert (perfect - case(KIND).shown).abs().mean() > 0.01
    assert seen(KIND, perfect) == ["1 of 1", "0.0"]
    assert [a.kind for a in said[0]] == ["circle"]


def test_rows_are_images_of_calls():
    network = torch.nn.Linear(2, 2)
    counter = edits.Rows(network)
    given, rows, seconds = counter.cost(
        lambda: [network(torch.zeros(n, 2)) for n in (1, 3)] and "done")
    assert (given, rows) == ("done", 4) and seconds >= 0
    assert counter.cost(lambda: None)[1] == 0


def test_a_photo_is_inverted_once_for_all_that_inverts_alike(monkeypatch):
    """And each edit has the whole cost of its inversion in its row of the table."""
    network, inverted = torch.nn.Linear(2, 2), []
    counter = edits.Rows(network)

    def invert(method, models, task):
        inverted.append(method.name)
        network(torch.zeros(5, 2))

    monkeypatch.setattr(Method, "invert", invert)
    monkeypatch.setattr(edits, "decoded", lambda models, latent: latent)
    chains = {}
    methods = [Method(name, lambda *_: network(torch.zeros(2, 2)), {"solver": solver})
               for name, solver in (("a", "ddim"), ("b", "ddim"), ("c", "obelm"))]
    made = [edits.outcome(None, method, case(COLOR), counter, chains) for method in methods]
    assert inverted == ["a", "c"]
    assert [outcome.rows for outcome in made] == [(5, 2)] * 3


def test_a_method_is_asked_for_by_a_part_of_its_name():
    assert all(edits.is_wanted(method, None) for method in UNET)
    found = [method.name for method in UNET if edits.is_wanted(method, ["obelm", "smooth"])]
    assert len(found) == 2 and "obelm" in found[0]


def test_the_table_divides_by_plain_sampling(monkeypatch):
    def outcome(rows: tuple, seconds: float, error: float | None = None) -> edits.Outcome:
        return edits.Outcome(case(COLOR).shown, error, rows, seconds)

    outcomes = {"plain": {COLOR: [outcome((0, 40), 2.0)]},
                "other": {COLOR: [outcome((20, 30), 5.0, 3e-4)]}}
    *_, plain, other = edits.table({COLOR: [case(COLOR)]}, outcomes).splitlines()
    assert plain.split(" | ")[1:4] == ["", "40", "1.0"]
    assert other.split(" | ")[1:4] == ["3e-04", "20 + 30", "2.5"]
