"""Files that are no chain, or no longer: each is refused in one sentence."""

from __future__ import annotations

import math

import chain_files
import pytest
import torch
from chain_files import PREVIEW, Parts, edit, make_chain, refuses, sound_file
from comfyui_rival.rival_core.chain import file as chain_file
from comfyui_rival.rival_core.chain.file import load


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return sound_file(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def file(tmp_path):
    """Writes bytes; returns their path."""

    def write(data: bytes):
        path = tmp_path / "given.safetensors"
        path.write_bytes(data)
        return path

    return write


def test_no_code_is_ever_read(file):
    torch.save({"latents": torch.zeros(2)}, path := file(b""))
    with refuses("safetensors|header"):
        load(path)


def test_another_safetensors_file_is_no_chain(file):
    safetensors = pytest.importorskip("safetensors.torch")
    with refuses("holds no chain", "RIVAL Save Chain"):
        load(file(safetensors.save({"lora": torch.zeros(3)}, {"format": "pt"})))
    assert not chain_file.is_chain(file(safetensors.save({"lora": torch.zeros(3)})))


def test_a_glance_tells_chains(file, whole, tmp_path):
    assert chain_file.is_chain(file(whole))
    for other in (b"", whole[:20], b"x" * 100):
        assert not chain_file.is_chain(file(other))
    assert not chain_file.is_chain(tmp_path / "missing")


def test_a_newer_version_is_refused_whatever_else_it_holds(file, whole):
    parts = Parts(whole)
    parts.description = {"version": 3, "other": []}
    for sign in (True, False):
        with refuses("newer version", "format 3", "update the pack"):
            load(file(parts.join(sign)))


def test_truncated_files(file, whole):
    """Inside the length, the header, every tensor, and at all their ends."""
    parts = Parts(whole)
    ends = [parts.place(name).stop for name in parts.header if name != "__metadata__"]
    ends = [len(whole) - len(parts.data) + end for end in ends[:-1]]
    near = {end + step for end in (8, *ends) for step in (-1, 0, 1)}
    for length in sorted({*range(10), *near, *range(0, len(whole), 13), len(whole) - 1}):
        with refuses("cut short", "copy it again"):
            load(file(whole[:length]))


@pytest.mark.parametrize("length", [2**18 + 1, 2**40, 2**63, 2**64 - 1])
def test_headers_that_claim_to_be_huge(file, whole, length):
    with refuses("cut short"):
        load(file(length.to_bytes(8, "little") + whole[8:]))


def test_a_header_that_is_huge(file):
    with refuses("header of 3000000 bytes"):
        load(file(chain_files.pack(b" " * 3_000_000, b"")))


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"7", b"null", b"[" * 200_000, b"\xff\xfe{}",
                                    b'{"a":' * 40_000, b"1" * 5_000, b"NaN", b'{"a":1}',
                                    b'{"__metadata__":{"rival_chain":1}}',
                                    b'{"__metadata__":[]}', b'{"__metadata__":null}'])  # fmt: skip
def test_headers_that_are_none(file, header):
    with refuses("damaged"):
        load(file(chain_files.pack(header, b"")))


def test_a_changed_byte_anywhere_is_seen(file, whole):
    """But in the header's padding, which says nothing."""
    for place in [*range(8, len(whole), 11), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        if whole[place : place + 1] != b" ":
            with refuses("changed|damaged|cut short|no chain|newer"):
                load(file(bytes(changed)))


def test_bytes_after_the_end(file, whole):
    with refuses("damaged"):
        load(file(whole + b"\0"))


NAN, INF = torch.tensor(math.nan), torch.tensor(math.inf)
CHAIN = make_chain()
WRONG_TENSORS = {
    "falling sigmas": ("sigmas", CHAIN.sigmas.flip(0)),
    "equal sigmas": ("sigmas", torch.ones(4)),
    "negative sigmas": ("sigmas", CHAIN.sigmas - 1),
    "nan sigmas": ("sigmas", CHAIN.sigmas * NAN),
    "one sigma": ("sigmas", torch.ones(1)),
    "more sigmas": ("sigmas", torch.linspace(0, 1, 5)),
    "square sigmas": ("sigmas", CHAIN.sigmas.reshape(2, 2)),
    "double sigmas": ("sigmas", CHAIN.sigmas.double()),
    "fewer latents": ("latents", CHAIN.latents[:3]),
    "latents of six dimensions": ("latents", CHAIN.latents[:, :, None, None]),
    "thin latents": ("latents", CHAIN.latents[..., :1]),
    "double latents": ("latents", CHAIN.latents.double()),
    "nan latents": ("latents", CHAIN.latents * NAN),
    "infinite latents": ("latents", CHAIN.latents * INF),
    "more residuals": ("residuals", torch.ones(4)),
    "negative residuals": ("residuals", -CHAIN.residuals),
    "nan residuals": ("residuals", CHAIN.residuals * NAN),
    "fewer calls": ("calls", CHAIN.calls[:2]),
    "negative calls": ("calls", -CHAIN.calls),
    "float calls": ("calls", CHAIN.calls.float()),
    "grey preview": ("preview", PREVIEW[..., 0]),
    "alpha preview": ("preview", torch.zeros(4, 5, 4, dtype=torch.uint8)),
    "big preview": ("preview", torch.zeros(129, 5, 3, dtype=torch.uint8)),
    "flat tokens": ("positive.5", torch.zeros(3, 5)),
    "whole tokens": ("positive.5", torch.zeros(1, 3, 5).long()),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_make_no_chain(file, whole, name):
    """In files whose checksum is right."""
    parts = Parts(whole)
    parts.replace(*WRONG_TENSORS[name])
    with refuses("damaged"):
        load(file(parts.join()))


WRONG_FIELDS = {
    "version 0": edit("description/version", 0),
    "version as text": edit("description/version", "1"),
    "version true": edit("description/version", True),
    "unknown field": edit("description/more", 1),
    "no description": edit("header/__metadata__/rival_chain", "[]"),
    "schedule": edit("description/schedule", 5),
    "schedule with a line": edit("description/schedule", "a\nb"),
    "schedule endless": edit("description/schedule", "a" * 65),
    "weights": edit("description/weights", None),
    "cfg text": edit("description/cfg", "1"),
    "cfg true": edit("description/cfg", True),
    "cfg infinite": edit("description/cfg", 1e999),
    "unknown solver": edit("description/solver/name", "rk45"),
    "solver is no text": edit("description/solver/name", ["ddim"]),
    "solver is none": edit("description/solver", None),
    "no iterations": edit("description/solver/iterations", 0),
    "half an iteration": edit("description/solver/iterations", 1.5),
    "negative tolerance": edit("description/solver/tolerance", -1),
    "no tolerance": edit("description/solver/tolerance", None),
    "solver with more": edit("description/solver/more", 1),
    "unknown scaling": edit("description/scaling/kind", "cosine"),
    "scaling is no text": edit("description/scaling/kind", {}),
    "sigma_max 0": edit("description/scaling/sigma_max", 0),
    "sigma_data text": edit("description/scaling/sigma_data", "1"),
    "family": edit("description/model/family", None),
    "latent format": edit("description/model/latent_format", 1),
    "layers": edit("description/model/layers", None),
    "layer": edit("description/model/layers/0", [["input", 1], 0]),
    "layer width": edit("description/model/layers/0/2", 1.5),
    "layer block": edit("description/model/layers/0/0", ["input"]),
    "layer name": edit("description/model/layers/0/0/0", 1),
    "no positive": edit("description/positive", None),
    "empty positive": edit("description/positive", []),
    "positive is text": edit("description/positive", "a hill"),
    "entry of one": edit("description/positive/0", [{"tensor": "positive.5"}]),
    "tokens are a number": edit("description/positive/0/0", 1),
    "tokens of nothing": edit("description/positive/0/0", {"tensor": "nothing"}),
    "tokens are the latents": edit("description/positive/0/0", {"tensor": "latents"}),
    "options are a list": edit("description/positive/0/1", []),
    "hooks": edit("description/positive/0/1/dict/hooks", 1),
    "control": edit("description/negative/0/1/dict/control", {"dict": {}}),
    "an unknown kind": edit("description/negative/0/1/dict/a", {"code": "x"}),
    "two kinds": edit("description/negative/0/1/dict/a", {"dict": {}, "tuple": []}),
    "no kind": edit("description/negative/0/1/dict/a", {}),
    "a tensor twice": edit("description/negative/0/1/dict/a", {"tensor": "positive.5"}),
    "a tensor left over": edit("description/positive/0/1/dict/pooled_output", None),
    "an infinite option": edit("description/positive/0/1/dict/guidance", 1e999),
    "a huge option": edit("description/positive/0/1/dict/width", 2**63),
    "deep options": edit("description/positive/0/1/dict/width", [[[[[[[[[0]]]]]]]]]),
    "offset": edit("header/latents/data_offsets/0", 0),
    "negative offset": edit("header/latents/data_offsets", [-8, 376]),
    "offset as text": edit("header/latents/data_offsets", "0"),
    "shape": edit("header/latents/shape/0", 5),
    "negative shape": edit("header/latents/shape", [-4, -4, 2, 3]),
    "empty shape": edit("header/latents/shape/0", 0),
    "fractional shape": edit("header/latents/shape/0", 4.0),
    "true shape": edit("header/latents/shape", [4, 4, 6, True]),
    "long shape": edit("header/positive.6/shape", [1, 1, 1, 1, 1, 1, 1, 1, 6]),
    "unknown dtype": edit("header/latents/dtype", "F4"),
    "dtype is a list": edit("header/latents/dtype", ["F32"]),
    "entry with more": edit("header/latents/more", 1),
    "entry is a list": edit("header/latents", []),
    "metadata of numbers": edit("header/__metadata__/more", 1),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_headers_that_make_no_chain(file, whole, name):
    """In files whose checksum is right."""
    parts = Parts(whole)
    WRONG_FIELDS[name](parts)
    with refuses("damaged|cut short"):
        load(file(parts.join()))


def test_a_shape_beyond_the_file_takes_no_memory(file, whole, monkeypatch):
    made = chain_files.count_empty(monkeypatch)
    for shape in ([2**62, 2**62], [10**19] * 8, [2**30]):
        parts = Parts(whole)
        parts.header["sigmas"]["shape"] = shape
        with refuses("damaged|cut short"):
            load(file(parts.join()))
    assert sum(made) == 0


def test_bools_are_true_or_false(file, whole):
    parts = Parts(whole)
    name = next(n for n, e in parts.header.items() if e.get("dtype") == "BOOL")
    parts.put(name, torch.full([1, 3], 2, dtype=torch.uint8))
    with refuses("damaged"):
        load(file(parts.join()))


@pytest.mark.parametrize("name", ["sigmas", "latents", "residuals", "calls"])
def test_a_tensor_of_another_name(file, whole, name):
    parts = Parts(whole)
    parts.header = {"other" if key == name else key: entry for key, entry in parts.header.items()}
    with refuses("damaged"):
        load(file(parts.join()))
