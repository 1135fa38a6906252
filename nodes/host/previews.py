"""Pictures of latents without a MODEL: by a VAE, or by the host's approximate colours."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import torch
from PIL import Image
from torch import Tensor

from ...rival_core.errors import RivalError


def latent_format(name: str) -> comfy.latent_formats.LatentFormat | None:
    """The latent format of this name, if this ComfyUI has it."""
    found = getattr(comfy.latent_formats, name, None)
    is_one = isinstance(found, type) and issubclass(found, comfy.latent_formats.LatentFormat)
    return found() if is_one else None


def pixels_of(space: comfy.latent_formats.LatentFormat | None) -> int:
    """To a side of a latent's pixel; 8 where the host does not say, as of most."""
    return getattr(space, "spacial_downscale_ratio", 8)


def picture_of(latent: Tensor, name: str, vae: Any | None = None) -> Tensor | None:
    """A model-space latent [1, C, *grid] as a picture [H', W', 3], 0 to 1 but for overshoots.

    Decoded, or without a VAE in the colours of the host's fast previews; None where the host
    cannot show latents of this name and shape.
    """
    space, channels = latent_format(name), latent.shape[1]
    if space is None:
        return None
    if vae is None:
        return colours(space, latent[0])
    if getattr(vae, "latent_channels", channels) != channels:
        raise RivalError(
            f"the VAE takes {vae.latent_channels} channels and the chain's latents have "
            f"{channels}: connect the VAE of the checkpoint that made the chain"
        )
    return decoded(vae, space.process_out(latent))[0]


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """The samples of a LATENT of images as an IMAGE [B, H, W, 3], as VAE Decode makes it.

    Older hosts leave it to us that a VAE of images knows no time.
    """
    is_timed = samples.ndim == 5 and getattr(vae, "latent_dim", 3) == 2
    pictures = vae.decode(samples[:, :, 0] if is_timed else samples)
    return pictures if pictures.ndim == 4 else pictures.flatten(0, 1)  # the frames of each


def colours(space: comfy.latent_formats.LatentFormat, latent: Tensor) -> Tensor | None:
    """A latent [C, *grid] as [H, W, 3], position by position."""
    latent, factors = latent.flatten(0, -3), space.latent_rgb_factors
    unpack = getattr(space, "latent_rgb_factors_reshape", None)  # where a pixel holds several
    if unpack is not None and len(latent) == space.latent_channels:
        latent = unpack(latent[None])[0]
    if factors is None or len(factors) != len(latent):
        return None
    bias = getattr(space, "latent_rgb_factors_bias", None) or [0.0]
    mixed = torch.einsum("chw,cr->hwr", latent.detach().cpu().float(), torch.tensor(factors))
    return (mixed + torch.tensor(bias) + 1) / 2


def to_pillow(picture: Tensor) -> Image.Image:
    """A picture [H, W, 3] in [0, 1] as Pillow's."""
    levels = picture[..., :3].detach().cpu().float().nan_to_num().clamp(0, 1).mul(255).round()
    height, width = picture.shape[:2]
    return Image.frombytes("RGB", (width, height), levels.to(torch.uint8).numpy().tobytes())


def from_pillow(picture: Image.Image) -> Tensor:
    """A Pillow picture as an IMAGE [1, H, W, 3]."""
    levels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return levels.view(1, picture.height, picture.width, 3) / 255
