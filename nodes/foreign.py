"""What a chain from elsewhere must be to be used: one sentence for whatever would not work.

Of a prompt's options ComfyUI (0.3.64 to 0.33) reads only those named here: for UNets READABLE, for
transformers READ_BY_DITS, too. All others are kept as they are, whatever they hold: a pack may
have put them there, and no model looks at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.chain.conditioning import LIVE, is_prompt, is_sane
from ..rival_core.errors import RivalError, shown
from . import host
from .checks import PARTIAL, is_number, whole_conditioning

MOST_NUMBER = 1e6  # image sizes end at 16384, aesthetic scores at 1000
LEAST_STRENGTH = 1e-6  # the strength of a whole prompt cancels out, down to here
# Options that are read when they are there at all, None or not, and that no file's prompt can have.
ABSENT = {
    *LIVE,
    *("area", "mask", "timestep_start", "timestep_end"),
    *("unclip_conditioning", "noise_concat", "latent_image", "denoise_mask"),
    "self",  # ComfyUI passes options by name, to a method
}


T5_TOKENS = 32128
MOST_SIDE = 1 << 14


class Beside(NamedTuple):
    """What an option lies beside."""

    channels: int  # of the latents
    dimensions: int
    tokens: int  # of the text

    @property
    def lead(self) -> tuple[int, ...]:
        """What a latent of one image has before its height and width."""
        return (1, self.channels, *[1] * (self.dimensions - 4))


Rule = Callable[[Any, Beside], bool]


def foreign_chain(chain: Chain) -> None:
    """Raises unless a chain on the CPU is one that RIVAL Invert might have made."""
    readable = READABLE
    if host.is_dit_family(chain.model.family):
        readable = {**READABLE, **READ_BY_DITS}
    for name in ("positive", "negative"):
        conditioning = getattr(chain, name)
        if conditioning is not None:
            ((tokens, options),) = whole_conditioning(conditioning, name)
            beside = Beside(chain.latents.shape[1], chain.latents.ndim, tokens.shape[1])
            check_options(name, options, beside, readable)
    if not host.is_fingerprint(chain.weights):
        raise RivalError("the file does not say which weights it is for: save the chain anew")


def check_options(
    name: str, options: dict[str, Any], beside: Beside, rules: dict[str, Rule]
) -> None:
    """Raises unless the model can read every option that it will read."""
    for key, value in options.items():
        rule = rules.get(key)
        if key in ABSENT or (rule is not None and not rule(value, beside)):
            raise RivalError(
                f"{name} has {key} {described(value)}, which no model can read: save the chain anew"
            )
    if ("clip_start_percent" in options) != ("clip_end_percent" in options):
        raise RivalError(f"{name} has half a range of scheduled prompts: save the chain anew")
    if rules is not READABLE and not whole_pairs(options, beside):
        raise RivalError(
            f"{name} has a mask or token numbers that do not fit each other: save the chain anew"
        )


def whole_pairs(options: dict[str, Any], beside: Beside) -> bool:
    """Whether options that a transformer reads together belong together, each being readable."""
    mask, size = options.get("attention_mask"), options.get("attention_mask_img_shape")
    if mask is not None and (mask.ndim == 3) != (size is not None):
        return False
    if mask is not None and size is not None and len(mask[0]) != beside.tokens + size[0] * size[1]:
        return False
    ids, weights = options.get("t5xxl_ids"), options.get("t5xxl_weights")
    return (ids is None) == (weights is None) and (ids is None or ids.shape == weights.shape)


def described(value: Any) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)


def as_number(value: Any, beside: Beside) -> bool:
    return is_number(value) and abs(value) <= MOST_NUMBER


def as_strength(value: Any, beside: Beside) -> bool:
    return as_number(value, beside) and abs(value) >= LEAST_STRENGTH


def as_pooled(value: Any, beside: Beside) -> bool:
    return value is None or (isinstance(value, Tensor) and is_sane(value))


def as_tokens(value: Any, beside: Beside) -> bool:
    return value is None or is_prompt(value)


def as_image(value: Any, beside: Beside) -> bool:
    """A latent of one image, of any size: as an inpainting model is shown it, or a reference."""
    return isinstance(value, Tensor) and value.shape[:-2] == beside.lead and (
        is_sane(value) and value.numel() > 0
    )


def as_mask(value: Any, beside: Beside) -> bool:
    """[1, 1, h, w], or without the ones."""
    return isinstance(value, Tensor) and value.shape[:-2] in ((1, 1), (1,), ()) and (
        value.ndim >= 2 and is_sane(value)
    )


def as_text_mask(value: Any, beside: Beside) -> bool:
    """[1, T] of 0 and 1, or with the image's own tokens [1, L, L] (see whole_pairs)."""
    if value is None:
        return True
    if not isinstance(value, Tensor) or not is_real(value):
        return False
    if value.ndim == 3:
        return len(value) == 1 and value.shape[1] == value.shape[2]
    return value.shape == (1, beside.tokens) and bool(((value == 0) | (value == 1)).all())


def is_real(tensor: Tensor) -> bool:
    """Whether it holds finite numbers, of any kind."""
    return not tensor.is_complex() and bool((tensor.double().abs() <= MOST_NUMBER).all())


def as_size(value: Any, beside: Beside) -> bool:
    """Height and width, in tokens."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return value is None or (is_pair and all(type(n) is int and 0 < n <= MOST_SIDE for n in value))


def as_references(value: Any, beside: Beside) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return value is None or (is_list and all(as_image(image, beside) for image in value))


def as_contexts(value: Any, beside: Beside) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(map(is_prompt, value)))


def as_layers(value: Any, beside: Beside) -> bool:
    """[1, layers, T, C] of a text encoder."""
    return value is None or (
        isinstance(value, Tensor) and value.ndim == 4 and len(value) == 1 and is_sane(value)
    )


def as_token_ids(value: Any, beside: Beside) -> bool:
    """[T] of T5's, which an embedding is looked up by."""
    if value is None:
        return True
    is_list = isinstance(value, Tensor) and value.ndim == 1 and value.dtype == torch.int64
    return is_list and value.numel() > 0 and int(value.min()) >= 0 and int(value.max()) < T5_TOKENS


def as_weights(value: Any, beside: Beside) -> bool:
    return value is None or (isinstance(value, Tensor) and value.ndim == 1 and is_sane(value))


def or_none(rule: Rule) -> Rule:
    return lambda value, beside: value is None or rule(value, beside)


def is_none(value: Any, beside: Beside) -> bool:
    return value is None


READABLE: dict[str, Rule] = {
    **dict.fromkeys(("width", "height", "crop_w", "crop_h"), as_number),
    **dict.fromkeys(("target_width", "target_height", "aesthetic_score"), as_number),
    **{key: as_number for key in PARTIAL if key.endswith("_percent")},
    "strength": as_strength,
    "prompt_type": lambda value, _: isinstance(value, str),
    "control_apply_to_uncond": lambda value, _: isinstance(value, bool),
    "pooled_output": as_pooled,
    "cross_attn_controlnet": as_tokens,
    "concat_latent_image": as_image,
    "concat_mask": as_mask,
}
# What the flow families' model classes ask a prompt for, beside those.
READ_BY_DITS: dict[str, Rule] = {
    **dict.fromkeys(("guidance", "guiding_frame_index"), or_none(as_number)),
    **dict.fromkeys(("ref_latent", "concat_latent_image"), or_none(as_image)),
    "attention_mask": as_text_mask,
    "attention_mask_img_shape": as_size,
    "reference_latents": as_references,
    "reference_latents_method": or_none(lambda value, _: isinstance(value, str)),
    "reference_latents_text_embeds": as_contexts,
    "conditioning_llama3": as_layers,
    "conditioning_byt5small": as_tokens,
    "t5xxl_ids": as_token_ids,
    "t5xxl_weights": as_weights,
    # Of other kinds, or of videos: nothing that a file's prompt can have.
    **dict.fromkeys(("clip_vision_output", "clip_vision_outputs", "context_latents"), is_none),
    **dict.fromkeys(("time_dim_concat", "time_dim_replace", "concat_mask_index"), is_none),
}
