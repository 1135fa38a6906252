"""`python tests` brings a browser if it can: the path's, playwright's own, the system's package."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import frontend
import pytest

PYTHON = Path("python")


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A system on which nothing is installed: what is on its path, what works, what was run."""
    own = tmp_path / "own"
    system = SimpleNamespace(path=set(), works=set(), asked=[], own=str(own), root=True)

    def run(command, **_):
        name = " ".join(command[:2] if command[0] == "apt-get" else command[-2:])
        system.asked.append(name)
        if "executable_path" in name:
            return SimpleNamespace(stdout=f"{own}\n")
        if name not in system.works:
            raise subprocess.CalledProcessError(1, command)
        if name == "install chromium":
            own.touch()
        if name == "apt-get install":
            system.path.add("chromium")
        return SimpleNamespace(stdout="Chromium 1.0\n")

    monkeypatch.delenv(frontend.BROUGHT, raising=False)
    monkeypatch.setattr(frontend.shutil, "which", lambda name: f"/bin/{name}" if name in system.path
                        else None)
    monkeypatch.setattr(frontend.subprocess, "run", run)
    monkeypatch.setattr(frontend.os, "geteuid", lambda: 0 if system.root else 1000)
    return system


def test_one_on_the_path_is_taken(system):
    system.path.add("google-chrome")
    assert frontend.bring_browser(PYTHON) == "/bin/google-chrome" and system.asked == []


def test_else_playwrights_own_is_fetched_and_told_to_other_processes(system, monkeypatch):
    system.works = {"install chromium", f"{system.own} --version"}
    assert frontend.bring_browser(PYTHON) == system.own
    monkeypatch.setenv(frontend.BROUGHT, system.own)
    assert frontend.find_browser() == system.own


def test_else_the_systems_package(system):
    """Also where playwright's own is there and does not start."""
    system.path.add("apt-get")
    system.works = {"install chromium", "apt-get install"}
    assert frontend.bring_browser(PYTHON) == "/bin/chromium"


@pytest.mark.parametrize("root, path", [(False, {"apt-get"}), (True, set())])
def test_else_none_and_nothing_is_forced(system, root, path):
    system.root, system.path = root, path
    assert frontend.bring_browser(PYTHON) is None
    assert not any("apt-get" in name for name in system.asked)
