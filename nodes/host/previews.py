"""Pictures of latents without a MODEL: by a VAE, or by the host's fast preview."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import torch
from latent_preview import Latent2RGBPreviewer
from PIL import Image
from torch import Tensor

from ...rival_core.errors import RivalError


def latent_format(name: str) -> Any | None:
    """The host's latent format of this name, or None if it knows none."""
    found = getattr(comfy.latent_formats, name, None)
    known = isinstance(found, type) and issubclass(found, comfy.latent_formats.LatentFormat)
    return found() if known else None


def fast_preview(latent: Tensor, name: str) -> Image.Image | None:
    """A model-space latent [1, C, H, W] as a picture of W x H, or None where there is no way."""
    known = latent_format(name)
    factors = getattr(known, "latent_rgb_factors", None)
    if factors is None or len(factors) != latent.shape[1]:
        return None
    previewer = Latent2RGBPreviewer(factors, known.latent_rgb_factors_bias)
    return previewer.decode_latent_to_preview(latent.detach().to("cpu", torch.float32))


def decoded(vae: Any, latent: Tensor, name: str) -> Image.Image | None:
    """A model-space latent [1, C, H, W] decoded, or None if the latent format is not known."""
    known, channels = latent_format(name), latent.shape[1]
    if known is None:
        return None
    if getattr(vae, "latent_channels", channels) != channels:
        raise RivalError(
            f"the VAE takes {vae.latent_channels} channels and the chain's latents have "
            f"{channels}: connect the VAE of the checkpoint that made the chain"
        )
    return to_picture(vae.decode(known.process_out(latent))[0])


def to_picture(image: Tensor) -> Image.Image:
    """An IMAGE [H, W, 3] in [0, 1] as a Pillow picture."""
    levels = image[..., :3].detach().float().nan_to_num().clamp(0, 1).mul(255).round()
    height, width = image.shape[:2]
    return Image.frombytes("RGB", (width, height), levels.to("cpu", torch.uint8).numpy().tobytes())


def from_picture(picture: Image.Image) -> Tensor:
    """A Pillow picture as an IMAGE [1, H, W, 3]."""
    levels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return levels.view(1, picture.height, picture.width, 3) / 255
