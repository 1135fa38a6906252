"""Every node has a help page that names all of its inputs and shows a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
DOCS = TESTS.parent / "web" / "docs"
NODES = json.loads((TESTS / "golden" / "nodes.json").read_text(encoding="utf-8"))
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")
MOST_BYTES = 300_000  # of a picture
HOSTS_OWN = {"sampler_name", "scheduler", "schedule", "chain_file"}  # the host's, or the user's

every_node = pytest.mark.parametrize("node", NODES)


def page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def test_there_is_a_page_for_every_node_and_no_other():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


@every_node
def test_page_is_headed_by_the_nodes_name(node):
    assert page(node).splitlines()[0] == f"# {NODES[node]['display_name']}"


@every_node
def test_page_has_every_input_in_its_table(node):
    rows = [line.split("|")[1] for line in page(node).splitlines() if line.startswith("| **")]
    named = [name for row in rows for name in re.findall(r"\*\*(\w+)\*\*", row)]
    assert sorted(named) == sorted(i["name"] for i in NODES[node]["inputs"])


@every_node
def test_page_names_every_choice(node):
    combos = {i["name"]: i["choices"] for i in NODES[node]["inputs"]
              if "choices" in i and i["name"] not in HOSTS_OWN}
    missing = {(name, choice) for name, choices in combos.items() for choice in choices
               if not re.search(rf"`{choice}`|\| {choice} \|", page(node))}
    assert missing == set()


@every_node
def test_page_tells_the_cost_and_the_mistakes(node):
    assert "**Cost.**" in page(node) or "## Cost" in page(node)
    mistakes = page(node).partition("\n## Mistakes\n")[2]
    assert mistakes.count("\n* ") >= 3


@every_node
def test_page_shows_pictures_that_lie_beside_it(node):
    shown = [target for _, target in PICTURE.findall(page(node))]
    assert shown
    for target in shown:
        assert "/" not in target and (DOCS / target).is_file()
        assert (DOCS / target).stat().st_size < MOST_BYTES


def test_every_picture_is_shown():
    shown = {target for node in NODES for _, target in PICTURE.findall(page(node))}
    assert {path.name for path in DOCS.iterdir() if path.suffix != ".md"} == shown
