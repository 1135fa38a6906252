"""The house: which room may import which. What each room is for stands in docs/development.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# From the ground up: a module imports from its own floor's room and from floors below it.
FLOORS = {
    "rival_core": [
        {"errors"}, {"values"}, {"inversion"}, {"chain"}, {"steering"}, {"sampling"},
        {"editing", "choosing"}, {"diffusers"},
    ],
    "nodes": [
        {"host"}, {"schema"}, {"steering", "pictures"},
        {"checks", "foreign", "notices", "solver", "start", "values"},
    ],
}  # fmt: skip
# The modules of one floor that know each other.
SHARED = {"checks", "foreign", "notices", "solver", "start", "values"}
LIBRARIES = {"torch", "einops"}
COMFY = {
    *("comfy", "comfy_extras", "comfy_execution", "execution", "folder_paths", "latent_preview"),
    *("node_helpers", "nodes", "server"),
}


def sources() -> dict[str, str]:
    """The pack's modules: path and text."""
    paths = [REPO / "__init__.py", *REPO.glob("nodes/**/*.py"), *REPO.glob("rival_core/**/*.py")]
    return {path.relative_to(REPO).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def imported(path: str, text: str, modules: set[str]) -> Iterator[str]:
    """What a module imports: "rival_core/chain/chain" of the pack's own, "torch.nn" of others."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            base = "/".join(part for part in base if part)
            inside = [f"{base}/{alias.name}" for alias in node.names]
            yield from (name if name in modules else base for name in inside)


def floor(path: str) -> tuple[str, str, int]:
    """(package, room, height) of a module of the pack; node files live on the top floor."""
    package, room = f"{path}/".split("/")[:2]
    floors = FLOORS[package]
    height = next((i for i, rooms in enumerate(floors) if room in rooms), len(floors))
    return package, room, height


def may_import(path: str, other: str) -> bool:
    """Whether one module of the pack may import another."""
    if path == "__init__":
        return other in ("nodes", "nodes/__init__")
    (package, room, height), (others, its_room, its_height) = floor(path), floor(other)
    if package != others:
        return others == "rival_core"
    if path == "nodes/__init__":
        return True
    if its_height == height:
        return room == its_room or {room, its_room} <= SHARED
    return its_height < height


def violations(files: dict[str, str]) -> list[str]:
    """"path imports what", for every import that the house forbids."""
    modules = {path.removesuffix(".py").removesuffix("/__init__") for path in files}
    found = []
    for path, text in files.items():
        own = path.removesuffix(".py")
        for name in imported(path, text, modules):
            if name.startswith(("nodes", "rival_core")) and (name in modules or "/" in name):
                allowed = may_import(own, name)
            else:
                allowed = may_use(own, name.split(".")[0])
            if not allowed:
                found.append(f"{path} imports {name}")
    return found


def may_use(path: str, library: str) -> bool:
    """Whether a module may import from outside the pack."""
    if library in COMFY:
        return path.startswith("nodes/host/")
    if library == "comfy_api":  # what nodes are declared with
        return not path.startswith("rival_core/")
    if path.startswith("rival_core/"):
        own = {"diffusers"} if path.startswith("rival_core/diffusers/") else set()
        return library in sys.stdlib_module_names or library in LIBRARIES | own
    return True


def test_no_room_imports_upwards_and_the_host_is_touched_in_one():
    assert violations(sources()) == []


@pytest.mark.parametrize("path, line", [
    ("rival_core/chain/new.py", "from ..steering import masks"),
    ("rival_core/chain/new.py", "from ..steering.masks import resize_mask"),
    ("rival_core/inversion/new.py", "from ..chain.chain import Chain"),
    ("rival_core/steering/new.py", "from ..diffusers import engine"),
    ("rival_core/steering/new.py", "from ...nodes import checks"),
    ("rival_core/steering/new.py", "import comfy.samplers"),
    ("rival_core/steering/new.py", "from comfy_api.latest import io"),
    ("rival_core/steering/new.py", "import diffusers"),
    ("rival_core/sampling/new.py", "def late():\n    import numpy"),
    ("nodes/steering/new.py", "from .. import checks"),
    ("nodes/steering/new.py", "from ..invert import RivalInvert"),
    ("nodes/host/new.py", "from ..schema import named"),
    ("nodes/invert.py", "from .patch import RivalPatchModel"),
    ("nodes/new.py", "import folder_paths"),
    ("nodes/new.py", "from comfy import samplers"),
    ("nodes/checks.py", "from .invert import RivalInvert"),
    ("__init__.py", "from .rival_core import chain"),
])  # fmt: skip
def test_what_the_house_forbids_is_found(path, line):
    files = {**sources(), path: line}
    assert len([found for found in violations(files) if found.startswith(f"{path} imports")]) == 1


@pytest.mark.host
def test_the_packs_nodes_do_not_shadow_the_hosts(host):
    import nodes

    assert Path(nodes.__file__) == host.path / "nodes.py"
