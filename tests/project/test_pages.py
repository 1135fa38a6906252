"""README, docs, help pages: short, no dead link, and none out of the archive that is published."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

REPO = Path(__file__).resolve().parents[2]
PROJECT = (REPO / "pyproject.toml").read_text(encoding="utf-8")
ADDRESS = re.search(r'^Repository = "(https://.+)"$', PROJECT, re.MULTILINE)[1]
NAME = ADDRESS.rpartition("/")[2]
UNPUBLISHED = (REPO / ".comfyignore").read_text(encoding="utf-8").split()

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r'\]\(([^)\s]+)|(?:src|href)="([^"]+)"|^\[[^\]]+\]: (\S+)', re.MULTILINE)
COMMAND = re.compile(r"\bpython ([\w/]+(?:\.py)?)")
PAGES = [REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").glob("*.md"),
         *(REPO / "web" / "docs").glob("*.md"), *(REPO / "demo").rglob("*.md")]

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())


def links(page: Path) -> list[str]:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return ["".join(found) for found in TARGET.findall(text)]


def inside(page: Path) -> list[tuple[Path, str]]:
    """(file, heading or "") of the links that are no addresses."""
    found = [link.partition("#") for link in links(page) if "://" not in link]
    return [((page.parent / unquote(path)).resolve() if path else page, heading)
            for path, _, heading in found]


def headings(page: Path) -> set[str]:
    """As GitHub names them in a page's address."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def is_published(path: Path) -> bool:
    """Whether the archive holds the file, which .comfyignore decides."""
    return not any(path.is_relative_to(REPO / folder) for folder in UNPUBLISHED)


def test_links_are_found_and_headings_named_as_on_the_web(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# It\'s a "Head", isn\'t it?\n```\n# no [code](a)\n```\n'
                    '![p](b.jpg) [q](c.md#d) <img src="e.png">\n\n[f]: g.md\n', encoding="utf-8")
    assert links(page) == ["b.jpg", "c.md#d", "e.png", "g.md"]
    assert headings(page) == {"its-a-head-isnt-it"}


@every_page
def test_no_link_is_dead(page):
    dead = [str(path) for path, heading in inside(page)
            if not path.is_file() or (heading and heading not in headings(path))]
    assert dead == []


@every_page
def test_what_is_published_links_to_nothing_that_is_not(page):
    if is_published(page):
        assert [str(path) for path, _ in inside(page)
                if not path.is_relative_to(REPO) or not is_published(path)] == []


def test_folders_alone_are_left_out_of_the_archive():
    """So that is_published is what git's patterns say."""
    assert all(re.fullmatch(r"[\w.]+/", folder) for folder in UNPUBLISHED)
    assert not is_published(Path(__file__))
    assert is_published(REPO / "README.md")


@pytest.mark.parametrize("file", ["pyproject.toml", "README.md", "CHANGELOG.md"])
def test_the_project_has_one_address(file):
    owner = ADDRESS.removeprefix("https://github.com/").removesuffix(f"/{NAME}")
    text = (REPO / file).read_text(encoding="utf-8")
    found = re.findall(rf"https://(?:raw\.githubusercontent|github)\.com/([^/]+)/{NAME}", text)
    assert set(found) <= {owner}
    assert found or file == "CHANGELOG.md"


def test_the_icon_is_where_its_address_says():
    icon = re.search(r'^Icon = "(.+)"$', PROJECT, re.MULTILINE)[1]
    raw = ADDRESS.replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert icon.startswith(raw)
    assert (REPO / icon.removeprefix(raw)).is_file()


@every_page
def test_commands_start_what_is_there(page):
    paths = {REPO / name for name in COMMAND.findall(page.read_text(encoding="utf-8"))}
    assert [str(path) for path in paths
            if not path.is_file() and not (path / "__main__.py").is_file()] == []


def test_readme_is_read_to_the_end():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 190


def test_every_picture_of_docs_is_shown():
    shown = {path for page in PAGES for path, _ in inside(page)}
    pictures = {path for path in (REPO / "docs").iterdir() if path.suffix == ".jpg"}
    assert pictures - shown == set()


def test_the_version_has_its_changes():
    version = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)[1]
    assert version in headings_of_changes()


def headings_of_changes() -> list[str]:
    return re.findall(r"^## (\S+)", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"),
                      re.MULTILINE)
