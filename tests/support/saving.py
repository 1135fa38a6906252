"""RIVAL Save Chain and RIVAL Load Chain in folders of a test's own."""

from __future__ import annotations

import pytest


def own_folders(tmp_path, monkeypatch):
    """ComfyUI's folders, empty, in a folder of this test's own."""
    import folder_paths

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    (tmp_path / "outside").mkdir()
    return tmp_path


def save(chain, prefix="rival/chain", vae=None) -> str:
    """RIVAL Save Chain; the name that RIVAL Load Chain has for the file."""
    from comfyui_rival.nodes import RivalSaveChain

    output = RivalSaveChain.execute(chain, prefix, vae)
    assert output.args[0] is chain
    (saved,) = output.ui["chains"]
    return "/".join([*filter(None, [saved["subfolder"]]), f"{saved['filename']} [output]"])


def load(name: str):
    from comfyui_rival.nodes import RivalLoadChain

    return RivalLoadChain.execute(name).args[0]


def choices() -> list[str]:
    from comfyui_rival.nodes import RivalLoadChain

    (combo,) = RivalLoadChain.define_schema().inputs
    return combo.options


def refuses(node, *said):
    """pytest.raises for one sentence from `node` that holds each of the words."""
    pattern = f"^{node}: " + "".join(f"(?=.*(?:{word}))" for word in said) + r"[^\n]*\.$"
    return pytest.raises(ValueError, match=pattern)


def files_of(folders) -> list[str]:
    return sorted(p.relative_to(folders).as_posix() for p in folders.rglob("*") if p.is_file())
