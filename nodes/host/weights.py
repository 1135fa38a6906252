"""Which weights a MODEL has: a short text that two machines can compare."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor

from .models import network_inside

LAYERS = 48  # how many of the checkpoint's weights are looked at, spread over the network
PLACES = 4  # how many numbers of each
# Half a step of bfloat16 is 2^-8 of a weight: a checkpoint is the same after a cast to it. Training
# on a concept moves some of the numbers looked at by several percent.
CAST, TINY = 1e-2, 1e-6
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
TINY_FLOAT8 = 2**-9  # the least number of e4m3, where no scale stands beside it
PLAIN = (Tensor, torch.nn.Parameter)  # quantized weights are classes of their own


def weights_fingerprint(model: ModelPatcher) -> str:
    """What tells a MODEL's weights from others', "" if they cannot be looked at.

    "<digest of the LoRAs and merges on it>:<some of the checkpoint's own numbers>": the same
    whether it is loaded or not, on every device and whatever dtype it was cast to; a number out of
    float8 has no more binary digits than it had there. Hooks are no part of it. No model call;
    some 10 ms for SD1.5.
    """
    where = network_inside(model, model.model.diffusion_model)
    prefix = f"diffusion_model.{where}." if where else "diffusion_model."
    # Scales, and whatever else is stored beside a quantized weight, have other names.
    keys = [k for k in model.model_state_dict(prefix) if k.endswith((".weight", ".bias"))]
    keys = sorted(keys)[:: max(1, len(keys) // LAYERS)]
    with model.use_ejected():
        numbers = [checkpoint_numbers(*own_weight(model, key)) for key in keys]
    if all(few.isnan().all() for few in numbers):
        return ""
    text = b64encode(torch.cat(numbers).half().numpy().tobytes()).decode()
    return f"{patches_digest(model)}:{text}"


def weights_differ(one: str, other: str) -> str:
    """In what two fingerprints differ, in words; "" if in nothing, or if one is unknown."""
    if not one or not other or one == other:
        return ""
    (patches, checkpoint), (theirs, their_checkpoint) = one.split(":"), other.split(":")
    if not same_checkpoint(decoded(checkpoint), decoded(their_checkpoint)):
        return "another checkpoint"
    return "" if patches == theirs else "other LoRAs, or at other strengths,"


def same_checkpoint(a: Tensor, b: Tensor) -> bool:
    """Whether all numbers are as near as the ways they were stored in allow; NaN is unknown."""
    if a.shape != b.shape:
        return False
    near = (a - b).abs() <= slack(a) + slack(b)
    return bool((near | (a == b) | a.isnan() | b.isnan()).all())


def slack(numbers: Tensor) -> Tensor:
    """How far each may be from what it was before it was stored.

    One that float8 can hold may come from there: half a step by the cast, half by `rounded`. Of
    numbers out of other types less than one in a hundred looks so.
    """
    found = CAST / 2 * numbers.abs() + TINY
    for dtype in FLOAT8:
        step = torch.finfo(dtype).eps * numbers.abs() + TINY_FLOAT8
        found = torch.where(rounded(numbers, dtype) == numbers, step, found)
    return found


def is_fingerprint(text: str) -> bool:
    """Whether a text from elsewhere can be compared: one of `weights_fingerprint`, or ""."""
    _, *numbers = text.split(":")
    try:
        return not text or (len(numbers) == 1 and len(decoded(numbers[0])) > 0)
    except ValueError:
        return False


def decoded(numbers: str) -> Tensor:
    return torch.frombuffer(bytearray(b64decode(numbers)), dtype=torch.float16).float()


def own_weight(model: ModelPatcher, key: str) -> tuple[Tensor, Callable]:
    """A weight without patches, and what takes its numbers to their real scale."""
    weight, _, convert = get_key_weight(model.model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    if key in model.hook_backup:
        weight = model.hook_backup[key][0]
    return weight, convert or (lambda numbers: numbers)


def checkpoint_numbers(weight: Tensor, convert: Callable) -> Tensor:
    """numbers_of an own_weight; NaN if it is of no known kind."""
    stored = getattr(weight, "storage_dtype", weight.dtype)
    if type(weight) in PLAIN and weight.is_floating_point():
        few = convert(numbers_of(weight))
    elif stored in FLOAT8:
        few = numbers_of(convert(weight))
    else:
        return torch.full([min(PLACES, weight.numel())], torch.nan)
    return rounded(few, stored) if stored in FLOAT8 else few


def rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers with as many binary digits as a dtype has, whatever their magnitude."""
    digits, exponents = torch.frexp(numbers)
    least = torch.finfo(dtype).eps / 2
    return torch.ldexp((digits / least).round() * least, exponents)


def numbers_of(weight: Tensor) -> Tensor:
    """A few of a weight's numbers, float32 on the CPU."""
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // PLACES)][:PLACES].float().cpu()


def patches_digest(model: ModelPatcher) -> str:
    """Of every patch's key, content and strength; of several on one key, whatever their order."""
    digest = hashlib.sha256()
    for key in sorted(model.patches):
        patches = [p for p in model.patches[key] if (p[0], p[2]) != (0.0, 1.0)]  # those do nothing
        if patches:
            parts = sorted(hashlib.sha256(b"".join(content(p))).digest() for p in patches)
            digest.update(key.encode() + b"".join(parts))
    return digest.hexdigest()[:16]


def content(value: Any) -> Iterator[bytes]:
    """What a patch consists of, without what differs from process to process."""
    if isinstance(value, Tensor):
        yield repr(tuple(value.shape)).encode() + numbers_of(value).numpy().tobytes()
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from content(part)
    elif isinstance(value, (int, float)):
        yield f"{value:.6g},".encode()
    elif value is None or isinstance(value, str):
        yield f"{value},".encode()
    elif hasattr(value, "weights"):  # a LoRA of any kind
        yield type(value).__name__.encode()
        yield from content(value.weights)
