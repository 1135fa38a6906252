"""What may enter a chain: one sentence for every input that cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rival_core.chain import Chain, ModelCard
from ..rival_core.errors import RivalError
from . import host
from .alignment import alignment_of

# Keys of a conditioning entry that make it act on a part of the image, the schedule or the model.
PARTIAL = {
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
    "clip_start_percent": "a scheduled prompt",
    "clip_end_percent": "a scheduled prompt",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}
# Options with a row for each prompt, or image, of a batch.
WITH_ROWS = (
    *("pooled_output", "concat_latent_image", "concat_image", "concat_mask"),
    "cross_attn_controlnet",
)
WHOLE_RANGE = {
    "start_percent": 0.0,
    "end_percent": 1.0,
    "clip_start_percent": 0.0,
    "clip_end_percent": 1.0,
}


def latent_image(latent: dict, channels: int) -> Tensor:
    """The [1, C, H, W] float32 samples of a LATENT that holds one image."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several streams" if samples.ndim == 4 else f"{samples.ndim} dimensions"
        raise RivalError(f"the latent has {shape}: give the latent of one image, not of a video")
    if samples.shape[0] != 1:
        raise RivalError(
            f"the latent holds a batch of {samples.shape[0]}: give one image, for instance through "
            "Latent From Batch"
        )
    if samples.numel() == 0:
        raise RivalError(f"the latent is empty (shape {list(samples.shape)}): give a real image")
    height, width = samples.shape[2:]
    if min(height, width) < 2:
        raise RivalError(
            f"the latent is too small ({width} x {height}): give an image of at least 16 pixels a "
            "side"
        )
    if samples.shape[1] != channels:
        raise RivalError(
            f"the latent has {samples.shape[1]} channels and the model takes {channels}: encode "
            "the image with this checkpoint's own VAE"
        )
    if not torch.isfinite(samples).all():
        raise RivalError(
            "the latent holds NaN or infinity: encode the image again, with a VAE in float32"
        )
    if not samples.any():
        raise RivalError(
            "the latent is empty (all zeros): connect VAE Encode with a photo, not an Empty "
            "Latent Image"
        )
    return samples.to(torch.float32)


def pictures(latent: dict, channels: int, use: str) -> Tensor:
    """The [B, C, H, W] samples of a LATENT, finite as its noise_mask is. use: "to be inpainted"."""
    samples, mask = latent["samples"], latent.get("noise_mask")
    if samples.shape[1] != channels:
        raise RivalError(
            f"the latent {use} has {samples.shape[1]} channels and the model takes {channels}: "
            "encode the image with this checkpoint's own VAE"
        )
    for name, values in (("latent", samples), ("noise_mask", mask)):
        if values is not None and not (values.numel() and torch.isfinite(values).all()):
            raise RivalError(
                f"the {name} {use} is empty or holds NaN (shape {list(values.shape)}): encode the "
                "image, or paint the mask, again"
            )
    return samples.to("cpu", torch.float32)


def whole_conditioning(conditioning: Any, name: str) -> Any:
    """The conditioning, if it is one entry that acts on the whole image and schedule."""
    if len(conditioning) > 1 and all("clip_start_percent" in c[1] for c in conditioning):
        raise RivalError(
            f"{name} is another prompt at other steps: switch schedule_clip off in Set CLIP Hooks"
        )
    if len(conditioning) != 1:
        raise RivalError(
            f"{name} has {len(conditioning)} entries: an exemplar has one prompt, so connect a "
            "single CLIP Text Encode"
        )
    one_row(conditioning[0], name)
    options = conditioning[0][1]
    for key, what in PARTIAL.items():
        value = options.get(key)
        if value is not None and not (key in WHOLE_RANGE and value == WHOLE_RANGE[key]):
            raise RivalError(
                f"{name} carries {what}: invert with a plain prompt and use it on the sampler "
                "instead"
            )
    if not host.are_loras(conditioning):
        raise RivalError(
            f"{name} carries hooks that are no LoRA: invert without them and use them on the "
            "sampler instead"
        )
    return conditioning


def one_row(entry: Any, name: str) -> None:
    """Raises if a conditioning entry holds several prompts, or what belongs to several images."""
    tokens, options = entry
    for key, value in (("the tokens", tokens), *((key, options.get(key)) for key in WITH_ROWS)):
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) != 1:
            raise RivalError(
                f"{name} holds {len(value)} prompts in one entry ({key}): an exemplar has one "
                "prompt, so connect a single CLIP Text Encode of a single text"
            )


def foreign_chain(chain: Chain) -> None:
    """Raises unless a chain from elsewhere is one that RIVAL Invert might have made."""
    for name in ("positive", "negative"):
        if getattr(chain, name) is not None:
            whole_conditioning(getattr(chain, name), name)
    if not host.is_fingerprint(chain.weights):
        raise RivalError("the file does not say which weights it is for: save the chain anew")


def unpatched(model) -> None:
    found = alignment_of(model)
    if found is not None and (found.exemplars or found.keep is not None):
        raise RivalError(
            "this model already carries RIVAL Patch Model or a photo kept by RIVAL Blended "
            "Guidance: connect the model from before that, since the exemplar belongs to the "
            "plain model"
        )


def one_mask(name: str, mask: Tensor | None, may_be_empty: bool = False) -> Tensor | None:
    """One mask [1, H, W], or none; it covers something unless it may be empty."""
    if mask is None:
        return None
    if mask.ndim != 3 or len(mask) != 1 or not mask.numel() or not torch.isfinite(mask).all():
        raise RivalError(
            f"the {name} has the shape {list(mask.shape)}, or holds NaN: give one mask"
        )
    if not (may_be_empty or (mask >= 0.5).any()):
        raise RivalError(f"the {name} covers nothing: paint a part, or remove it")
    return mask.detach().to("cpu", torch.float32).clamp(0, 1)


def same_weights(chain: Chain, model) -> list[str]:
    """A notice if the chain was inverted with other weights than this model has."""
    other = host.weights_differ(chain.weights, host.weights_fingerprint(model))
    if not other:
        return []
    return [
        f"the chain was inverted with {other} than this model has: invert with the model that "
        "samples, unless this is meant, as with a LoRA for few steps"
    ]


def same_model(chain: Chain, card: ModelCard) -> None:
    """Raises unless the chain comes from a model of the same shape."""
    ours, theirs = chain.model, card
    if ours.family != theirs.family:
        raise RivalError(
            f"the chain was inverted with {ours.family} and this model is {theirs.family}: invert "
            "the image with the model that samples"
        )
    if ours.latent_format != theirs.latent_format:
        raise RivalError(
            f"the chain's latents are {ours.latent_format} and this model's "
            f"{theirs.latent_format}: invert the image with the model that samples"
        )
    if ours.layers != theirs.layers:
        raise RivalError(
            f"the chain's model has {len(ours.layers)} self-attention layers and this one "
            f"{len(theirs.layers)}, or of other widths: invert the image with the model that "
            "samples"
        )
