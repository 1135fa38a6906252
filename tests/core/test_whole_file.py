"""A saved chain is there whole or not at all, whatever happens to who saves it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chain_files import make_chain, refuses, same
from comfyui_rival.rival_core.chain import tensors as tensor_file
from comfyui_rival.rival_core.chain import whole_file
from comfyui_rival.rival_core.chain.file import Taken, load, save
from comfyui_rival.rival_core.errors import RivalError

TESTS = Path(__file__).resolve().parents[1]
# Saves a chain, but sleeps where it is told to: in the middle of the bytes, or when all are there.
CHILD = """
import os, sys, time
from pathlib import Path
sys.path[:0] = {paths}
import in_process
in_process.register_pack()
from chain_files import make_chain
from comfyui_rival.rival_core.chain import file as chain_file
from comfyui_rival.rival_core.chain import tensors as tensor_file

def slow(bytes_of=lambda tensor: None):
    def wait(*values):
        print("writing", flush=True)
        time.sleep(600)
    return wait

def raw(tensor, whole=tensor_file.raw):
    if sys.argv[2] == "middle" and tensor.ndim == 4:
        slow()()
    return whole(tensor)

tensor_file.digest_of = lambda *_: ""
tensor_file.raw = raw
os.fsync = slow()
chain_file.save(make_chain(), Path(sys.argv[1]))
"""


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(f".*{whole_file.PART}"))


def begin_save(path: Path, where: str) -> subprocess.Popen:
    """Another process, which now is in the middle of saving."""
    child = CHILD.format(paths=[str(TESTS / "support"), str(TESTS.parent / "harness")])
    command = [sys.executable, "-c", child, str(path), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.kill()  # SIGKILL
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_killed_save_leaves_nothing_to_be_found(tmp_path, where):
    killed = tmp_path / "killed.safetensors"
    process = begin_save(killed, where)
    try:
        assert not killed.exists() and len(parts(tmp_path)) == 1
        save(make_chain(), tmp_path / "beside.safetensors")
        assert len(parts(tmp_path)) == (1 if whole_file.fcntl else 0), "it is still being written"
    finally:
        kill(process)
    assert not killed.exists() and len(parts(tmp_path)) == 1
    save(make_chain(), killed)
    assert parts(tmp_path) == []
    assert same(load(killed).chain, make_chain())


@pytest.fixture
def no_links(monkeypatch):
    """A file system without hard links."""

    def link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(whole_file.os, "link", link)


@pytest.mark.parametrize("links", [True, False])
def test_of_savers_of_one_name_one_wins_and_none_overwrites(tmp_path, request, monkeypatch, links):
    if not links:
        request.getfixturevalue("no_links")
        look = os.path.lexists
        monkeypatch.setattr(os.path, "lexists", lambda path: (look(path), time.sleep(0.02))[0])
    path, outcomes = tmp_path / "raced.safetensors", []
    chains = [make_chain(cfg=float(i)) for i in range(6)]
    barrier = threading.Barrier(len(chains))

    def saver(chain):
        barrier.wait()
        try:
            save(chain, path)
            outcomes.append(chain)
        except Taken:
            outcomes.append(None)

    threads = [threading.Thread(target=saver, args=[chain]) for chain in chains]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    (winner,) = [chain for chain in outcomes if chain is not None]
    assert len(outcomes) == len(chains)
    assert same(load(path).chain, winner)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_stays_without_links_too(tmp_path, no_links):
    path = tmp_path / "given.safetensors"
    path.write_bytes(b"mine")
    with refuses("exists", "another name"):
        save(make_chain(), path)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def test_where_no_lock_can_tell_the_age_does(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if whole_file.fcntl is not None:
        monkeypatch.setattr(whole_file.fcntl, "flock", flock)
    old, fresh = (tmp_path / f".{name}{whole_file.PART}" for name in ("old", "fresh"))
    for part in (old, fresh):
        part.write_bytes(b"some")
    os.utime(old, times=(0, time.time() - 2 * whole_file.ABANDONED))
    save(make_chain(), tmp_path / "a.safetensors")
    assert parts(tmp_path) == [fresh]
    assert same(load(tmp_path / "a.safetensors").chain, make_chain())


HELPS = {
    errno.ENOSPC: "free some space on the disk of '{}'",
    errno.EDQUOT: "your space on the disk of '{}'",
    errno.EFBIG: "takes no file of this size",
    errno.EROFS: "the folder is read-only: make '{}' writable",
    errno.EACCES: "the folder is read-only: make '{}' writable",
    errno.EIO: "the disk of '{}' does not answer",
    errno.ENOTCONN: "another folder",
}


@pytest.mark.parametrize("place", ["raw", "fsync", "open"])
def test_a_save_that_fails_says_what_helps_and_leaves_nothing(tmp_path, monkeypatch, place):
    for number, said in HELPS.items():

        def fail(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            if place == "raw":
                broken.setattr(tensor_file, "digest_of", lambda *_: "")
                broken.setattr(tensor_file, "raw", fail)
            elif place == "fsync":
                broken.setattr(whole_file.os, "fsync", fail)
            else:
                broken.setattr(whole_file, "open", fail, raising=False)
            with refuses("cannot be written", said.format(tmp_path)) as refused:
                save(make_chain(), tmp_path / "given.safetensors")
        assert "choose another name:" not in str(refused.value)
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more(tmp_path):
    """A real one: this process may write files of 1000 bytes only."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with refuses("cannot be written", "file of this size"):
            save(make_chain(), tmp_path / "given.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_and_a_name_that_is_too_long(tmp_path):
    with refuses("the folder is gone", "run again"):
        save(make_chain(), tmp_path / "gone" / "given.safetensors")
    with pytest.raises(RivalError, match=r"cannot be written .*choose a shorter name$") as refused:
        save(make_chain(), tmp_path / ("long" * 70))
    assert len(str(refused.value)) < 250
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_file.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(make_chain(), tmp_path / "given.safetensors")
    assert list(tmp_path.iterdir()) == []
