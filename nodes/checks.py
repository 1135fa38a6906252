"""What may enter a chain: one sentence for every input that cannot."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import RivalError
from ..rival_core.inversion.scaling import FlowScaling, Scaling
from . import host
from .steering.run import alignment_of

# Keys of a conditioning entry that make it act on a part of the image, the schedule or the model.
PARTIAL = {
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
    "timestep_start": "a timestep range",
    "timestep_end": "a timestep range",
    "clip_start_percent": "a scheduled prompt",
    "clip_end_percent": "a scheduled prompt",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}
# Options with a row for each prompt, or image, of a batch, and their least dimensions then.
WITH_ROWS = {
    **{"pooled_output": 2, "cross_attn_controlnet": 3, "attention_mask": 2},
    **{"conditioning_llama3": 4, "conditioning_byt5small": 3},
    **{"concat_latent_image": 4, "concat_image": 4, "concat_mask": 3},
}
WHOLE_RANGE = {
    "start_percent": 0.0,
    "end_percent": 1.0,
    "clip_start_percent": 0.0,
    "clip_end_percent": 1.0,
}


def latent_image(latent: dict, model) -> Tensor:
    """The float32 samples of a LATENT that holds one image.

    [1, C, H, W], or [1, C, 1, H, W] for a model whose latents have time.
    """
    samples = of_images(latent, model)
    if samples.shape[0] != 1:
        raise RivalError(
            f"the latent holds a batch of {samples.shape[0]}: give one image, for instance through "
            "Latent From Batch"
        )
    return real(samples, model)


def latent_images(latent: dict, model) -> Tensor:
    """The float32 samples [B, C, H, W] of a LATENT of images, with a time of 1 or not."""
    return real(of_images(latent, model), model)


def of_images(latent: dict, model) -> Tensor:
    """The samples of a LATENT, if they have the dimensions of the model's images."""
    samples = host.as_its_own(model, latent)["samples"]
    nested = getattr(samples, "is_nested", False)
    if nested or samples.ndim != 2 + host.latent_dimensions(model):
        shape = "several streams" if nested else f"{samples.ndim} dimensions"
        raise RivalError(f"the latent has {shape}: give the latent of one image, not of a video")
    one_frame(samples)
    return samples


def real(samples: Tensor, model) -> Tensor:
    """Samples in float32, unless they are of another model or of no picture."""
    channels = host.latent_channels(model)
    if samples.numel() == 0:
        raise RivalError(f"the latent is empty (shape {list(samples.shape)}): give a real image")
    height, width = samples.shape[-2:]
    if min(height, width) < 2:
        raise RivalError(
            f"the latent is too small ({width} x {height}): give an image of at least "
            f"{2 * host.pixels_to_a_side(model)} pixels a side"
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
    if not samples.flatten(1).any(dim=1).all():
        raise RivalError(
            "the latent is empty (all zeros): connect VAE Encode with a photo, not an Empty "
            "Latent Image"
        )
    return samples.to(torch.float32)


def one_frame(samples: Tensor) -> None:
    """Raises if samples [B, C, *grid] have a time, and that is not of images."""
    if samples.ndim == 5 and samples.shape[2] > 1:
        raise RivalError(f"the latent is a video of {samples.shape[2]} frames: give one image")


def pictures(latent: dict, channels: int, use: str) -> Tensor:
    """The [B, C, *grid] samples of a LATENT, finite as its mask is. use: "to be inpainted"."""
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
        is_whole = is_number(value) and value == WHOLE_RANGE.get(key)
        if value is not None and not is_whole:
            raise RivalError(
                f"{name} carries {what}: invert with a plain prompt and use it on the sampler "
                "instead"
            )
    if is_number(options.get("strength")) and options["strength"] == 0:
        raise RivalError(f"{name} has the strength 0, so it says nothing: invert with strength 1")
    if not host.are_loras(conditioning):
        raise RivalError(
            f"{name} carries hooks that are no LoRA: invert without them and use them on the "
            "sampler instead"
        )
    return conditioning


def one_row(entry: Any, name: str) -> None:
    """Raises if a conditioning entry holds several prompts, or what belongs to several images."""
    tokens, options = entry
    found = {"the tokens": (tokens, 2), **{k: (options.get(k), n) for k, n in WITH_ROWS.items()}}
    for key, (value, dimensions) in found.items():
        if isinstance(value, Tensor) and value.ndim >= dimensions and len(value) != 1:
            raise RivalError(
                f"{name} holds {len(value)} prompts in one entry ({key}): an exemplar has one "
                "prompt, so connect a single CLIP Text Encode of a single text"
            )


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def unpatched(model) -> None:
    found = alignment_of(model)
    if found is not None and (found.exemplars or found.keep is not None or found.pulls):
        raise RivalError(
            "this model already carries RIVAL Patch Model, RIVAL Pull or a photo kept by RIVAL "
            "Blended Guidance: connect the model from before that, since the exemplar belongs to "
            "the plain model"
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


def same_model(chain: Chain, model) -> None:
    """Raises unless the model can be shown the chain: one of the same shape and sampling."""
    ours, theirs = chain.model, host.model_card(model)
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
    same_scaling(chain, host.scaling_of(model), chain.top)
    for name in ("positive", "negative"):
        if getattr(chain, name) is not None:
            ((tokens, options),) = getattr(chain, name)
            same_prompt_shape(name, tokens, options, model)
            if host.is_inpainting(model):
                shows_itself(options, chain.size)


def same_scaling(chain: Chain, scaling: Scaling, sigma: float) -> None:
    """Raises if the noise at sigma, or the latents between, would be scaled for another model.

    Another sigma_max alone does no harm unless sigma lies between the two.
    """
    ours, theirs = chain.scaling, scaling
    starts = ours.noise_scale(sigma), theirs.noise_scale(sigma)
    alike = math.isclose(*starts, rel_tol=1e-3) and type(ours) is type(theirs)
    if not (alike and math.isclose(ours.sigma_data, theirs.sigma_data, rel_tol=1e-3)):
        raise RivalError(
            f"the chain was inverted {sampled_as(ours)}, and this model samples "
            f"{sampled_as(theirs)}: invert with the model that samples, behind the same model "
            "sampling node if there is one"
        )


def sampled_as(scaling: Scaling) -> str:
    kind = "as a flow" if isinstance(scaling, FlowScaling) else "as a diffusion"
    return f"{kind} up to sigma {scaling.sigma_max:.4g}, of sigma_data {scaling.sigma_data:.4g}"


def same_prompt_shape(name: str, tokens: Tensor, options: dict, model) -> None:
    """Raises unless the model takes a prompt's encoding, and what else it reads beside it."""
    widths = {"text encoding": (tokens.shape[-1], host.text_width(model))}
    pooled = options.get("pooled_output")
    may_lack = "unclip_conditioning" in options or (pooled is None and host.may_lack_pooled(model))
    if not may_lack:
        found = pooled.shape[-1] if isinstance(pooled, Tensor) and pooled.ndim == 2 else 0
        widths["pooled text encoding"] = (found, host.pooled_width(model))
    glyphs, llama = (options.get(f"conditioning_{name}") for name in ("byt5small", "llama3"))
    if isinstance(glyphs, Tensor):
        widths["encoding of quoted words"] = (glyphs.shape[-1], host.glyph_width(model))
    if layers := host.llama_layers(model):
        found = llama.shape if isinstance(llama, Tensor) and llama.ndim == 4 else (0, 0, 0, 0)
        widths["llama encoding"] = (found[-1], host.text_width(model))
        if 0 < found[1] < layers:
            raise RivalError(
                f"the chain's {name} has {found[1]} layers of a llama encoding and this model "
                f"reads {layers}: invert the image with the model that samples"
            )
    for what, (found, wanted) in widths.items():
        if wanted not in (None, found):
            raise RivalError(
                f"the chain's {name} has a {what} of {found} numbers and this model reads "
                f"{wanted}: invert the image with the model that samples"
            )


def shows_itself(options: dict, size: tuple[int, int]) -> None:
    """Raises unless a prompt shows an inpainting model the exemplar, as RIVAL Invert lets it."""
    shown = [options.get(key) for key in ("concat_latent_image", "concat_mask")]
    if any(image is None or tuple(image.shape[-2:]) != size for image in shown):
        raise RivalError(
            "this model is for inpainting, and the chain was inverted with one that is not, or "
            "with another image beside it: invert the image with the model that samples"
        )


def finite_images(samples: Tensor) -> list[str]:
    """A notice if some of the images [B, ...] that came out are NaN or infinite; raises if all."""
    broken = int((~torch.isfinite(samples.flatten(1)).all(dim=1)).sum())
    advice = "lower cfg, or run the model in float32 (--force-fp32)"
    if broken == len(samples):
        raise RivalError(f"what was sampled is NaN or infinity: {advice}")
    return [f"{broken} of {len(samples)} images are NaN or infinity: {advice}"] if broken else []
