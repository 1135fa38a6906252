"""What a chain from elsewhere must be to be used: one sentence for whatever would not work.

Of a prompt's options ComfyUI (0.3.64 to 0.33) reads only those named here, for the UNets served.
All others are kept as they are, whatever they hold: a pack may have put them there, and no model
looks at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def foreign_chain(chain: Chain) -> None:
    """Raises unless a chain on the CPU is one that RIVAL Invert might have made."""
    for name in ("positive", "negative"):
        conditioning = getattr(chain, name)
        if conditioning is not None:
            ((_, options),) = whole_conditioning(conditioning, name)
            check_options(name, options, chain.latents.shape[1])
    if not host.is_fingerprint(chain.weights):
        raise RivalError("the file does not say which weights it is for: save the chain anew")


def check_options(name: str, options: dict[str, Any], channels: int) -> None:
    """Raises unless the model can read every option that it will read. channels: of the latents."""
    for key, value in options.items():
        readable = READABLE.get(key)
        if key in ABSENT or (readable is not None and not readable(value, channels)):
            raise RivalError(
                f"{name} has {key} {described(value)}, which no model can read: save the chain anew"
            )
    if ("clip_start_percent" in options) != ("clip_end_percent" in options):
        raise RivalError(f"{name} has half a range of scheduled prompts: save the chain anew")


def described(value: Any) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)


def as_number(value: Any, channels: int) -> bool:
    return is_number(value) and abs(value) <= MOST_NUMBER


def as_strength(value: Any, channels: int) -> bool:
    return as_number(value, channels) and abs(value) >= LEAST_STRENGTH


def as_pooled(value: Any, channels: int) -> bool:
    return value is None or (isinstance(value, Tensor) and is_sane(value))


def as_tokens(value: Any, channels: int) -> bool:
    return value is None or is_prompt(value)


def as_image(value: Any, channels: int) -> bool:
    """The exemplar's latent as an inpainting model is shown it: [1, C, h, w]."""
    return isinstance(value, Tensor) and value.shape[:-2] == (1, channels) and is_sane(value)


def as_mask(value: Any, channels: int) -> bool:
    """[1, 1, h, w], or without the ones."""
    return isinstance(value, Tensor) and value.shape[:-2] in ((1, 1), (1,), ()) and (
        value.ndim >= 2 and is_sane(value)
    )


READABLE: dict[str, Callable[[Any, int], bool]] = {
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
