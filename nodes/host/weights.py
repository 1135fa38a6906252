"""Which weights a MODEL has: a short text that two machines can compare."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

LAYERS = 48  # how many of the checkpoint's weights are looked at, spread over the network
PLACES = 4  # how many numbers of each
# Half a step of bfloat16 is 2^-8 of a weight: a checkpoint is the same after a cast to it. Training
# on a concept moves some of the numbers looked at by several percent.
CAST = 1e-2


def weights_fingerprint(model: ModelPatcher) -> str:
    """What tells a MODEL's weights from others', "" if they cannot be looked at.

    "<digest of the LoRAs and merges on it>:<some of the checkpoint's own numbers>": the same
    whether it is loaded or not, on every device and whatever dtype it was cast to. Hooks are no
    part of it. No model call; some 10 ms for SD1.5.
    """
    found = model.get_key_patches("diffusion_model.")
    own = {key: patches[0][0] for key, patches in found.items()}
    plain = (Tensor, torch.nn.Parameter)  # quantized ones are classes of their own
    own = {k: w for k, w in own.items() if type(w) in plain and w.is_floating_point()}
    if not own:
        return ""
    names = sorted(own)[:: max(1, len(own) // LAYERS)]
    numbers = torch.cat([numbers_of(own[name]) for name in names]).half()
    return f"{patches_digest(model)}:{b64encode(numbers.numpy().tobytes()).decode()}"


def weights_differ(one: str, other: str) -> str:
    """In what two fingerprints differ, in words; "" if in nothing, or if one is unknown."""
    if not one or not other or one == other:
        return ""
    (patches, checkpoint), (theirs, their_checkpoint) = one.split(":"), other.split(":")
    a, b = decoded(checkpoint), decoded(their_checkpoint)
    if a.shape != b.shape or not torch.allclose(a, b, rtol=CAST, atol=1e-6, equal_nan=True):
        return "another checkpoint"
    return "" if patches == theirs else "other LoRAs, or at other strengths,"


def is_fingerprint(text: str) -> bool:
    """Whether a text from elsewhere can be compared: one of `weights_fingerprint`, or ""."""
    _, *numbers = text.split(":")
    try:
        return not text or (len(numbers) == 1 and len(decoded(numbers[0])) > 0)
    except ValueError:
        return False


def decoded(numbers: str) -> Tensor:
    return torch.frombuffer(bytearray(b64decode(numbers)), dtype=torch.float16).float()


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
