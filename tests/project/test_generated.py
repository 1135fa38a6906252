"""Files that are made once: by one process at a time, whole, and anew when their source changes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import generated
import pytest

ASK = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import generated
generated.CACHE = Path(sys.argv[2])

def make(path):
    path.write_text("half")
    (generated.CACHE / "made").open("a").write("x")
    time.sleep(float(sys.argv[3]))
    path.write_text("whole")

print(generated.cached("thing", [Path(sys.argv[1], "generated.py")], make).read_text())
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(generated, "CACHE", tmp_path)
    return tmp_path


def ask(cache: Path, seconds: float) -> subprocess.Popen:
    """A process that wants the file and takes so long to make it."""
    harness = Path(generated.__file__).parent
    command = [sys.executable, "-c", ASK, str(harness), str(cache), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_makes_the_file(cache):
    both = [ask(cache, 0.5), ask(cache, 0.5)]
    assert [process.communicate(timeout=30)[0] for process in both] == ["whole\n"] * 2
    assert (cache / "made").read_text() == "x"


def test_a_process_that_dies_leaves_no_lock(cache):
    dying = ask(cache, 60)
    while not (cache / "made").exists():
        time.sleep(0.02)
    waiting = ask(cache, 0)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=1)
    dying.kill()
    assert waiting.communicate(timeout=30)[0] == "whole\n"
    dying.communicate()


def test_a_failure_leaves_nothing(cache):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        generated.cached("thing", [], fail)
    assert [file.name for file in cache.iterdir()] == ["thing.lock"]


def test_a_changed_source_replaces_its_file_and_no_other(cache):
    source = cache / "source.py"
    made = []
    for content in ("one", "one", "two"):
        source.write_text(content)
        other = generated.cached("thing-2", [], lambda path: path.write_text("other"))
        file = generated.cached("thing", [source], lambda path: path.write_text("made"))
        made.append(file)
    assert made[0] == made[1] != made[2]
    assert set(cache.glob("*.safetensors")) == {other, file}
