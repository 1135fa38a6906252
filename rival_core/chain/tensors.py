"""Tensors and some text in one safetensors file; nothing in a file is believed unchecked.

The layout (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, a JSON
header that says where each tensor lies, the tensors' bytes without gaps. A sha256 of all that is
kept with the text, so that a damaged file is told from a sound one.

Refusals are RivalErrors that go on after a file's name: "... is cut short: copy it again".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..errors import RivalError
from .whole_file import new_file

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
TEXT, DIGEST = "__metadata__", "sha256"
MOST_HEADER = 1 << 18  # bytes; JSON takes up to some 30 times its length in memory
MOST_DIMENSIONS = 8
DAMAGED = "is damaged: copy it again, or save the chain anew"


class Layout(NamedTuple):
    """A file's checked header."""

    text: dict[str, str]
    digest: str
    entries: dict[str, dict]  # as in the file, in the order of the bytes


def check(condition: bool) -> None:
    if not condition:
        raise RivalError(DAMAGED)


def write(path: Path, tensors: dict[str, Tensor], text: dict[str, str]) -> None:
    """A new file, of the same bytes for the same content; an existing one is never touched.

    tensors: of DTYPES, not empty. Raises OSError, and then leaves nothing behind (new_file).
    """
    wide_first = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in wide_first}
    entries, end = {}, 0
    for name, tensor in plain.items():
        start, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    digest = digest_of(text, entries, plain.values())
    header = dump({TEXT: {**text, DIGEST: digest}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MOST_HEADER:
        raise RivalError("cannot hold that much text: invert with a conditioning that carries less")
    with new_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.writelines(raw(tensor) for tensor in plain.values())


def read_layout(file: BinaryIO) -> Layout:
    """The header of a file that was just opened; every size in it is the file's own."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise RivalError("is cut short, or no safetensors file: copy it again")
    if length > MOST_HEADER:
        raise RivalError(f"has a header of {length} bytes, which no chain has: choose another file")
    header = parse(file.read(length))
    check(isinstance(header, dict))
    text = header.pop(TEXT, {})
    check(isinstance(text, dict) and all(isinstance(value, str) for value in text.values()))
    digest = text.pop(DIGEST, "")
    check_entries(header, size - 8 - length)
    return Layout(text, digest, header)


def check_entries(entries: dict[str, Any], size: int) -> None:
    """Raises unless the tensors follow each other and fill the `size` bytes after the header."""
    end = 0
    for entry in entries.values():
        check(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"})
        dtype, shape = entry["dtype"], entry["shape"]
        check(isinstance(dtype, str) and dtype in DTYPES and isinstance(shape, list))
        check(len(shape) <= MOST_DIMENSIONS and all(type(n) is int and n > 0 for n in shape))
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        check(entry["data_offsets"] == [start, end])
        if end > size:
            raise RivalError("is cut short: copy it again")
    check(end == size)


def read_tensors(file: BinaryIO, layout: Layout) -> dict[str, Tensor]:
    """The tensors after the header, each in memory of its own: the file's size in all."""
    tensors = {name: read_tensor(file, entry) for name, entry in layout.entries.items()}
    if digest_of(layout.text, layout.entries, tensors.values()) != layout.digest:
        raise RivalError("was changed since it was saved: copy it again, or save the chain anew")
    return tensors


def read_tensor(file: BinaryIO, entry: dict) -> Tensor:
    tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
    check(file.readinto(raw(tensor)) == tensor.nbytes)
    check(tensor.dtype != torch.bool or int(tensor.view(torch.uint8).max()) <= 1)
    return tensor


def digest_of(text: dict[str, str], entries: dict[str, dict], tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(dump([text, entries]).encode())
    for tensor in tensors:
        digest.update(raw(tensor))
    return digest.hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """A contiguous tensor's own bytes."""
    return memoryview(tensor.flatten().view(torch.uint8).numpy())


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def parse(source: bytes | str) -> Any:
    """JSON from anywhere: no NaN, no endless integers, no endless nesting."""
    try:
        text = source if isinstance(source, str) else source.decode("utf-8")
        return json.loads(text, parse_int=parse_int, parse_constant=parse_constant)
    except (ValueError, RecursionError):
        raise RivalError(DAMAGED) from None


def parse_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer of more than 64 bits")
    return int(digits)


def parse_constant(name: str) -> None:
    raise ValueError(name)
