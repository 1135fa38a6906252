"""A conditioning as JSON beside tensors, as long as it is made of plain values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import RivalError
from .tensors import DAMAGED, MOST_DIMENSIONS, NAMES, check

MOST_NESTING = 8
MOST_INT = 2**63
MOST_ENCODING = 1e6  # text encoders give some 30, and heavily weighted words some thousands
# Options that are code or other models; whatever they hold, no file has them.
LIVE = {
    "hooks": "LoRA hooks",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
    "model_conds": "a model's own inputs",
    "additional_models": "another model",
    "unclip_conditioning": "an unCLIP image",
}


def pack_conditioning(name: str, conditioning: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for [[Tensor [1, T, C], {option: value}], ...] or None; its tensors join `tensors`."""
    if conditioning is None:
        return None
    for tokens, options in conditioning:
        if not is_prompt(tokens):
            raise RivalError(f"{name} is no single prompt, or holds NaN: invert with a plain one")
        for key, what in LIVE.items():
            if options.get(key) is not None:
                raise RivalError(
                    f"{name} carries {what}, which no file can hold: invert without, or keep the "
                    "chain in the graph"
                )
    return [[pack(name, value, tensors) for value in entry] for entry in conditioning]


def unpack_conditioning(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The conditioning; what it takes leaves `tensors`."""
    if packed is None:
        return None
    check(isinstance(packed, list) and bool(packed))
    return [unpack_entry(entry, tensors) for entry in packed]


def unpack_entry(packed: Any, tensors: dict[str, Tensor]) -> list:
    check(isinstance(packed, list) and len(packed) == 2)
    tokens, options = (unpack(value, tensors) for value in packed)
    check(is_prompt(tokens))
    check(isinstance(options, dict) and all(options.get(key) is None for key in LIVE))
    return [tokens, options]


def is_prompt(tokens: Any) -> bool:
    """Whether this can be one prompt's encoding: [1, T, C], of numbers a model can take in."""
    return isinstance(tokens, Tensor) and tokens.ndim == 3 and len(tokens) == 1 and is_sane(tokens)


def is_sane(tensor: Tensor) -> bool:
    """Whether it holds real numbers, all of them finite and far below what overflows."""
    return tensor.is_floating_point() and bool((tensor.abs() <= MOST_ENCODING).all())


def pack(name: str, value: Any, tensors: dict[str, Tensor], nesting: int = 0) -> Any:
    """JSON for one value; what JSON does not know is an object of one key."""
    if nesting > MOST_NESTING:
        raise RivalError(f"{name} is nested too deeply to be saved: invert with a plain prompt")
    if is_plain(value):
        return value
    if type(value) in (Tensor, torch.nn.Parameter) and can_be_saved(value):
        tensors[key := f"{name}.{len(tensors)}"] = value
        return {"tensor": key}
    if type(value) in (list, tuple):
        parts = [pack(name, part, tensors, nesting + 1) for part in value]
        return parts if type(value) is list else {"tuple": parts}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {k: pack(name, part, tensors, nesting + 1) for k, part in value.items()}}
    raise RivalError(
        f"{name} carries a {type(value).__name__} that no file can hold: invert with a plain prompt"
    )


def unpack(packed: Any, tensors: dict[str, Tensor], nesting: int = 0) -> Any:
    check(nesting <= MOST_NESTING)
    if isinstance(packed, list):
        return [unpack(part, tensors, nesting + 1) for part in packed]
    if is_plain(packed):
        return packed
    check(isinstance(packed, dict) and len(packed) == 1)
    (kind, value), *_ = packed.items()
    if kind == "tensor":
        check(isinstance(value, str) and value in tensors)
        return tensors.pop(value)
    if kind == "tuple":
        check(isinstance(value, list))
        return tuple(unpack(part, tensors, nesting + 1) for part in value)
    if kind == "dict" and isinstance(value, dict):
        return {key: unpack(part, tensors, nesting + 1) for key, part in value.items()}
    raise RivalError(DAMAGED)


def moved(value: Any, device: torch.device | str) -> Any:
    """A conditioning, or any part of one, with its tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    return value


def is_plain(value: Any) -> bool:
    if type(value) is int:
        return -MOST_INT <= value < MOST_INT
    return value is None or type(value) in (bool, str) or is_finite(value)


def is_finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def can_be_saved(tensor: Tensor) -> bool:
    strided = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    shaped = tensor.numel() > 0 and tensor.ndim <= MOST_DIMENSIONS
    return strided and shaped and tensor.dtype in NAMES
