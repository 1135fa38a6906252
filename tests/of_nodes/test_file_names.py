"""Names that the nodes for files are given, and the list and numbers that they make."""

from __future__ import annotations

import os

import pytest
from chain_files import same
from composing import chain_of
from saving import choices, files_of, load, own_folders, refuses, save

pytestmark = pytest.mark.host


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return own_folders(tmp_path, monkeypatch)


NO_NAMES = [5, True, 0.5, [], ["a"], {}, {"a": "x" * 10_000}, [[["x" * 10_000] * 1000]],
            "", ".", "..", "a/..", "/", "/x", "C:", "C:x", "C:/x", "C:\\x", "x\0y", "a\nb", "a\r",
            "\x1b[31m", "a/\u2028b", "\ud800", "\udc80", "../" + "x" * 100_000, "x" * 100_000,
            "é" * 120, "x/" * 3000]  # fmt: skip


@pytest.mark.parametrize("value", [*NO_NAMES, None], ids=lambda value: repr(value)[:12])
def test_a_prefix_that_is_no_name(folders, value):
    """One short sentence before it runs (where a link looks like None) and while it does."""
    from comfyui_rival.nodes import RivalSaveChain

    with refuses("RIVAL Save Chain", "filename_prefix") as refused:
        save(chain_of(), value)
    assert len(str(refused.value)) < 300
    if value is not None:
        assert RivalSaveChain.validate_inputs(value) == str(refused.value)
    assert files_of(folders) == []


@pytest.mark.parametrize("name", [*NO_NAMES, None, "[output]", "x" * 300 + ".safetensors"],
                         ids=lambda value: repr(value)[:12])  # fmt: skip
def test_a_file_name_that_is_none(folders, name):
    from comfyui_rival.nodes import RivalLoadChain

    with refuses("RIVAL Load Chain") as refused:
        load(name)
    assert len(str(refused.value)) < 300
    if name is not None:
        assert RivalLoadChain.validate_inputs(name) == str(refused.value)
    assert isinstance(RivalLoadChain.fingerprint_inputs(name), str)


def test_names_of_every_language_are_kept(folders):
    for prefix in ("été/山 👩‍🎨", "a b/.c", "x\u3000y", "a/", "b/../c", "n" * 236):
        assert same(load(save(chain_of(), prefix)), chain_of())


def test_a_list_without_chains_says_what_to_do(folders):
    from comfyui_rival.nodes import RivalLoadChain

    (placeholder,) = choices()
    assert placeholder == "(none yet: save or upload a chain)"
    with refuses("RIVAL Load Chain", "no chain is chosen", "RIVAL Save Chain"):
        load(placeholder)
    assert "no chain is chosen" in RivalLoadChain.validate_inputs(placeholder)
    assert isinstance(RivalLoadChain.fingerprint_inputs(placeholder), str)
    name = save(chain_of())
    assert choices() == [name]
    assert "no chain is chosen" in RivalLoadChain.validate_inputs(placeholder)


def test_the_page_knows_that_entry():
    from pathlib import Path

    from comfyui_rival.nodes import host

    script = Path(__file__).resolve().parents[2] / "web" / "js" / "load_chain.js"
    assert f'const NONE_YET = "{host.NONE_YET}";' in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("at_the_last_moment", [False, True])
def test_another_run_may_take_the_number_first(folders, monkeypatch, at_the_last_moment):
    import folder_paths

    place = str(folders / "output"), "x", 1, "", "x"
    monkeypatch.setattr(folder_paths, "get_save_image_path", lambda *_: place)
    if at_the_last_moment:  # it was not there when this one looked
        monkeypatch.setattr(os.path, "lexists", lambda path: False)
    assert [save(chain_of(), "x") for _ in range(3)] == [
        f"x_0000{n}_.safetensors [output]" for n in (1, 2, 3)
    ]


def test_what_is_being_written_is_not_listed(folders):
    from comfyui_rival.rival_core.chain import whole_file

    save(chain_of(), "x")
    whole = (folders / "output" / "x_00001_.safetensors").read_bytes()
    (folders / "output" / f".0123{whole_file.PART}").write_bytes(whole)
    assert choices() == ["x_00001_.safetensors [output]"]


def test_a_full_disk_is_no_matter_of_the_name(folders, monkeypatch):
    import errno

    from comfyui_rival.rival_core.chain import whole_file

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with refuses("RIVAL Save Chain", "free some space on the disk of", "output"):
        save(chain_of())
    assert files_of(folders) == []
    monkeypatch.setattr(os, "makedirs", full)
    with refuses("RIVAL Save Chain", "free some space on the disk of", "output"):
        save(chain_of(), "new/x")
