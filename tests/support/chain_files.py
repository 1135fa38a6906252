"""Small chains, their files, and files that someone else has changed."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from comfyui_rival.rival_core.chain import file as chain_file
from comfyui_rival.rival_core.chain import tensors as tensor_file
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.inversion.scaling import Scaling

LAYERS = ((("input", 1), 0, 64), (("middle", 0), 0, 128), (("output", 1), 1, 64))


def make_chain(steps: int = 3, **changes) -> Chain:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    options = {
        "pooled_output": noise(1, 6),
        "attention_mask": torch.tensor([[True, True, False]]),
        "guidance": 3.5,
        "width": 512,
        "crop": (0, 8),
        "reference_latents": [noise(1, 4, 2, 2).to(torch.bfloat16)],
        "nothing": None,
        "extra": {"a.b": torch.tensor(3), "note": "a “quoted” word\n", "on": True},
    }
    fields = {
        "sigmas": torch.linspace(0.03, 14.5, steps + 1),
        "latents": noise(steps + 1, 4, 2, 3),
        "scaling": Scaling(14.6146, 1.0),
        "model": ModelCard("SD15", "SD15", LAYERS),
        "positive": [[noise(1, 3, 5).half(), options]],
        "negative": [[noise(1, 3, 5), {"pooled_output": None}]],
        "cfg": 1.1,
        "solver": Solver("anderson", 7, 3e-5, 2, 0.9),
        "schedule": "karras",
        "residuals": noise(steps).abs(),
        "calls": torch.arange(1, steps + 1),
        "weights": "0123456789abcdef:AACAPw==",
    }
    return Chain(**{**fields, **changes})


def same(one, other) -> bool:
    """Whether two values are equal, tensors bitwise and of one dtype, containers of one type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Chain):
        kept = [field.name for field in dataclasses.fields(Chain) if field.init]
        return all(same(getattr(one, name), getattr(other, name)) for name in kept)
    return one == other


class Parts:
    """A chain file taken apart: its header, what that says of the chain, the tensors' bytes."""

    def __init__(self, data: bytes):
        length = int.from_bytes(data[:8], "little")
        self.header = json.loads(data[8 : 8 + length])
        self.said = self.header["__metadata__"]["rival_chain"]
        self.description = json.loads(self.said)
        self.data = data[8 + length :]

    def copy(self) -> Parts:
        return copy.deepcopy(self)

    def place(self, tensor: str) -> slice:
        return slice(*self.header[tensor]["data_offsets"])

    def put(self, tensor: str, values: torch.Tensor) -> None:
        """Other values in a tensor's place, of its shape and dtype."""
        place, new = self.place(tensor), values.contiguous().numpy().tobytes()
        assert len(new) == place.stop - place.start
        self.data = self.data[: place.start] + new + self.data[place.stop :]

    def replace(self, tensor: str, values: torch.Tensor) -> None:
        """Another tensor in a tensor's place, of any shape."""
        names = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
                 torch.uint8: "U8"}  # fmt: skip
        place, new = self.place(tensor), values.contiguous().numpy().tobytes()
        self.data = self.data[: place.start] + new + self.data[place.stop :]
        grown = len(new) - (place.stop - place.start)
        for name, entry in self.header.items():
            if name != "__metadata__" and entry["data_offsets"][0] >= place.stop:
                entry["data_offsets"] = [offset + grown for offset in entry["data_offsets"]]
        self.header[tensor] |= {"dtype": names[values.dtype], "shape": list(values.shape)}
        self.header[tensor]["data_offsets"] = [place.start, place.start + len(new)]

    def join(self, sign: bool = True) -> bytes:
        """The file; signed, its checksum is that of the changed content."""
        header = copy.deepcopy(self.header)
        text = header.get("__metadata__") if isinstance(header, dict) else None
        if isinstance(text, dict) and "rival_chain" in text:
            if text["rival_chain"] == self.said:
                text["rival_chain"] = dump(self.description)
            if sign:
                text.pop("sha256", None)
                entries = {k: v for k, v in header.items() if k != "__metadata__"}
                content = dump([text, entries]).encode() + self.data
                text["sha256"] = hashlib.sha256(content).hexdigest()
        return pack(dump(header).encode(), self.data)


def edit(path: str, value):
    """A change to what the header says, by its path."""
    *keys, last = path.split("/")

    def change(parts: Parts) -> None:
        place = {"description": parts.description, "header": parts.header}
        for key in keys:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def dump(value) -> str:
    return json.dumps(value, separators=(",", ":"))


def pack(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


PREVIEW = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(4, 5, 3)


def sound_file(folder: Path, **changes) -> bytes:
    """The bytes of a file that nothing is wrong with."""
    chain_file.save(make_chain(**changes), folder / "chain.safetensors", PREVIEW)
    return (folder / "chain.safetensors").read_bytes()


def refuses(*said):
    """pytest.raises for one sentence on the file that holds each of the words."""
    pattern = r"^'given\.safetensors' " + "".join(f"(?=.*(?:{word}))" for word in said) + r"[^\n]*$"
    return pytest.raises(RivalError, match=pattern)


def count_empty(monkeypatch) -> list[int]:
    """The bytes of every tensor that a load makes room for."""
    made, empty = [], torch.empty

    def counted(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        made.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(tensor_file.torch, "empty", counted)
    return made
