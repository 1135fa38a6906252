"""A chain as a file: what comes back is what went in."""

from __future__ import annotations

import math

import pytest
import torch
from chain_files import PREVIEW, Parts, make_chain, refuses, same, sound_file
from comfyui_rival.rival_core.chain import tensors as tensor_file
from comfyui_rival.rival_core.chain.file import Saved, load, save, thumbnail
from comfyui_rival.rival_core.chain.report import summary
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.scaling import FlowScaling


def saved_and_loaded(chain, tmp_path) -> Saved:
    path = tmp_path / "chain.safetensors"
    save(chain, path, PREVIEW)
    return load(path)


def test_every_field_comes_back_bitwise(tmp_path):
    chain = make_chain()
    loaded, preview = saved_and_loaded(chain, tmp_path)
    assert same(loaded, chain)
    assert torch.equal(preview, PREVIEW)
    assert loaded.positive[0][0].dtype == torch.float16
    assert summary(loaded) == summary(chain)
    assert loaded.get_ram_usage() == chain.get_ram_usage()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1},
        {"negative": None, "residuals": None, "calls": None, "weights": ""},
        {"scaling": FlowScaling(1.0), "cfg": 1 / 3},
        {"sigmas": torch.tensor([0.0, 0.5, 1.0, 2.0])},
        {"latents": torch.randn(4, 16, 3, 2).transpose(2, 3)},
    ],
)
def test_other_chains_come_back_bitwise(tmp_path, changes):
    chain = make_chain(**changes)
    assert same(saved_and_loaded(chain, tmp_path).chain, chain)


def test_a_file_without_a_preview(tmp_path):
    save(make_chain(), tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").preview is None


def test_the_same_chain_is_the_same_file(tmp_path):
    whole = sound_file(tmp_path)
    save(make_chain(), tmp_path / "again.safetensors", PREVIEW)
    assert (tmp_path / "again.safetensors").read_bytes() == whole


def test_safetensors_itself_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    sound_file(tmp_path)
    with safetensors.safe_open(str(tmp_path / "chain.safetensors"), "pt") as opened:
        assert "rival_chain" in opened.metadata()
        assert torch.equal(opened.get_tensor("latents"), make_chain().latents)
        assert torch.equal(opened.get_tensor("preview"), PREVIEW)


def test_every_tensor_is_aligned_for_those_who_map_the_file(tmp_path):
    whole = sound_file(tmp_path)
    parts, sizes = Parts(whole), {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1}
    assert (len(whole) - len(parts.data)) % 8 == 0
    for name, entry in parts.header.items():
        assert name == "__metadata__" or parts.place(name).start % sizes[entry["dtype"]] == 0


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "given.safetensors"
    path.write_bytes(b"mine")
    with refuses("exists", "another name"):
        save(make_chain(), path)
    assert path.read_bytes() == b"mine"


def test_a_failed_save_leaves_no_file(tmp_path, monkeypatch):
    def full(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "digest_of", lambda *_: "")
    monkeypatch.setattr(tensor_file, "raw", full)
    with refuses("No space left"):
        save(make_chain(), tmp_path / "given.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["missing", "."])
def test_files_that_cannot_be_read(tmp_path, path):
    with pytest.raises(RivalError, match=r"^'[^\n]*cannot be read"):
        load(tmp_path / path)


UNSAVEABLE = {
    "hooks": (object(), "LoRA hooks"),
    "control": (object(), "ControlNet"),
    "gligen": (("position", object()), "GLIGEN"),
    "model_conds": ({}, "model's own"),
    "code": (print, "builtin_function"),
    "array": (b"bytes", "bytes"),
    "sparse": (torch.eye(2).to_sparse(), "Tensor"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "Tensor"),
    "empty": (torch.zeros(0), "Tensor"),
    "many-sided": (torch.zeros([1] * 9), "Tensor"),
    "infinite": (math.inf, "float"),
    "huge": (2**63, "int"),
    "numbered": ({1: 2}, "dict"),
    "deep": ([[[[[[[[[0]]]]]]]]], "deeply"),
    "long": ("a" * 300_000, "text"),
}


@pytest.mark.parametrize("name", UNSAVEABLE)
def test_conditionings_that_no_file_holds(tmp_path, name):
    value, said = UNSAVEABLE[name]
    chain = make_chain(negative=[[torch.zeros(1, 2, 3), {name: value}]])
    with pytest.raises(RivalError, match=said) as refused:
        save(chain, tmp_path / "chain.safetensors")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_chain_that_holds_itself(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(RivalError, match="deeply"):
        save(make_chain(negative=[[torch.zeros(1, 2, 3), {"a": loop}]]), tmp_path / "chain")


def test_thumbnails():
    picture = torch.rand(300, 200, 3)
    assert thumbnail(picture).shape == (128, 85, 3)
    assert torch.equal(thumbnail(PREVIEW / 255), PREVIEW)
    assert thumbnail(torch.full((500, 1, 3), 2.0)).unique().tolist() == [255]
    assert thumbnail(torch.full((2, 2, 3), math.nan)).dtype == torch.uint8


def test_what_was_loaded_can_be_saved(tmp_path):
    whole = sound_file(tmp_path)
    chain, preview = load(tmp_path / "chain.safetensors")
    save(chain, tmp_path / "again.safetensors", preview)
    assert (tmp_path / "again.safetensors").read_bytes() == whole
