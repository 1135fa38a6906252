"""What the help pages' pictures are made of: graphs and settings. Nothing is sampled here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools")]

import help_page
import help_pictures
import help_scenes
import positions as drawn
from comfyui_rival.rival_core.chain.report import Errors
from comfyui_rival.rival_core.steering.positions import POSITIONS, displacements

NODES = json.loads((REPO / "tests" / "golden" / "nodes.json").read_text(encoding="utf-8"))
PROMPT = {
    "1": {"class_type": "Loader", "inputs": {}},
    "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "cfg": 5},
          "_meta": {"title": "A"}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "Preview", "inputs": {"images": ["1", 0]}},
}
every_picture = pytest.mark.parametrize("node", help_scenes.PICTURES)


def cells(picture) -> list:
    return [cell for row in picture.rows for cell in row.cells]


def test_every_node_has_a_picture():
    assert sorted([*help_scenes.PICTURES, *help_pictures.DRAWN]) == sorted(NODES)


@every_picture
def test_changed_settings_are_inputs_of_our_nodes(node):
    picture = help_scenes.PICTURES[node]
    changes = {key for cell in cells(picture) for key in cell.changes} | set(picture.changes)
    named = {(kind, i["name"]) for kind in NODES for i in NODES[kind]["inputs"]}
    assert {key for key in changes if key[0] in NODES} <= named


@every_picture
def test_what_is_called_the_default_is_one(node):
    for cell in cells(help_scenes.PICTURES[node]):
        for (kind, name), value in cell.changes.items():
            if cell.label == f"{value} (default)":
                (widget,) = (i for i in NODES[kind]["inputs"] if i["name"] == name)
                assert value == widget.get("default", 0.0)


@every_picture
def test_columns_fit_a_narrow_panel(node):
    for row in help_scenes.PICTURES[node].rows:
        assert len(row.cells) <= help_page.COLUMNS
        assert not row.note or len(row.cells) < help_page.COLUMNS


def test_changes_are_by_type_or_title_and_leave_the_original():
    changed = help_pictures.changed(PROMPT, {("Sampler", "cfg"): 1, ("A", "seed"): 7})
    assert changed["2"]["inputs"] == {"model": ["1", 0], "cfg": 1, "seed": 7}
    assert PROMPT["2"]["inputs"] == {"model": ["1", 0], "cfg": 5}


def test_a_run_has_what_its_output_needs_and_no_more():
    assert set(help_pictures.behind(PROMPT, "3")) == {"1", "2", "3"}
    assert set(help_pictures.behind(PROMPT, "4")) == {"1", "4"}


def test_figures_are_the_latents_error_and_the_pictures_decibels():
    text = f"latent: {Errors(1.0, 0.00912, 20.0)}\nimage: {Errors(1.0, 0.5, 27.71)}"
    assert help_pictures.figures(text) == "9e-3, 27.7 dB"


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_photo_is_drawn_where_the_pack_puts_it(positions):
    """By how many rows and columns each token moves; shuffled, by any permutation."""
    found = [(float(to[0] - at[0]), float(to[1] - at[1])) for at, to in drawn.places(positions)]
    moved = displacements(positions, (drawn.TOKENS,) * 2, (drawn.TOKENS,) * 2)
    if positions == "shuffled":
        there = [to for _, to in drawn.places(positions)]
        assert sorted(there) == sorted(at for at, _ in drawn.places(positions))
        assert len(set(found)) > drawn.TOKENS and moved.abs().sum() > 0
    else:
        assert set(found) == {(0.0, 0.0) if moved is None else tuple(moved[0].tolist())}


def test_every_choice_is_drawn():
    assert drawn.POSITIONS == POSITIONS and set(drawn.WORDS) == set(POSITIONS)
