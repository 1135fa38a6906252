"""One process, one host: a ComfyUI on sys.path and the pack imported as `comfyui_rival`."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
SAMPLED = 4  # one test in so many

sys.path.insert(0, str(REPO / "harness"))
sys.path[:0] = [str(TESTS / "support"), str(TESTS)]

import frontend
import hosts
import in_process

pytest_plugins = ["serving", "browsing"]


def pytest_configure(config):
    if _only_schedules(config):
        return
    found = hosts.find_hosts(clone=False)
    config.rival_host = found[0] if found else None
    if found:
        import torch

        torch.set_num_threads(1)
        in_process.prepare_host(found[0].path, pytorch_attention=_attention() == "pytorch")
    in_process.register_pack()


def pytest_report_header(config):
    host = getattr(config, "rival_host", None)
    return f"host: {host}, attention: {_attention()}" if host else None


def pytest_collection_modifyitems(config, items):
    kept = [item for item in items if _is_ours(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = sorted(kept, key=lambda item: item.path.parent.name == "browser")  # these come last
    if config.rival_host is None:
        skip = pytest.mark.skip(reason="no ComfyUI was found")
        for item in items:
            if _needs(item):
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter, config):
    if getattr(config, "rival_host", "scheduled elsewhere") is None:
        terminalreporter.section("HOST TESTS NOT RUN: no ComfyUI was found", sep="!", bold=True)
        terminalreporter.line("Set COMFYUI_PATH to one or more ComfyUI folders to run them.")
    if frontend.find_browser() is None:
        terminalreporter.section("BROWSER TESTS NOT RUN: no Chromium was found", sep="!", bold=True)
        terminalreporter.line("None could be brought: put Chromium or Chrome on the PATH.")
    if problem := os.environ.get("RIVAL_TESTS_PROBLEM"):
        terminalreporter.section(problem, sep="!", bold=True)


@pytest.fixture(scope="session")
def host(pytestconfig) -> hosts.Host:
    """The ComfyUI this process runs on."""
    return pytestconfig.rival_host


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A new folder that all workers of this run see: for what is dear and the same on every host.

    Made in it with generated.once, by whichever worker needs it first.
    """
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def photos_apart():
    """The photos run in calls of their own, also where their rows could ride in the image's."""
    import spies

    with spies.photos_apart():
        yield


@pytest.fixture(scope="session")
def share() -> tuple[int, int]:
    """(n, of how many): this host's part of random cases that need not run on every host alike."""
    return _worker()


def _needs(item) -> str | None:
    """"host", "any_host" or nothing: a test's own mark goes before its file's."""
    marks = (mark.name for mark in item.iter_markers())
    return next((name for name in marks if name in ("host", "any_host")), None)


def _attention() -> str:
    """Which attention the host computes with: its own choice, or PyTorch's as on most GPUs."""
    return os.environ.get("RIVAL_TESTS_ATTENTION", "host's own")


def _is_ours(item) -> bool:
    """Whether this worker runs a test. The first one has the newest host.

    Of what is sampled the others have a part. What one host or none is enough for is run where its
    file's others are: mostly not on the first one, which has more to do.
    """
    worker, count = _worker()
    if count == 1:
        return True
    if _needs(item) == "host":
        is_kept = zlib.crc32(item.nodeid.encode()) % SAMPLED == 0
        return worker == 0 or is_kept or not item.get_closest_marker("sampled")
    turn = zlib.crc32(item.path.name.encode())
    return worker == (0 if turn % SAMPLED == 0 else 1 + turn % (count - 1))


def _worker() -> tuple[int, int]:
    """(this worker's number, how many workers there are)."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return int(number), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def _only_schedules(config) -> bool:
    """Under pytest-xdist the controlling process runs no test itself."""
    return config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
