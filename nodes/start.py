"""Where generation starts: what RIVAL KSampler, RIVAL Noise and RIVAL Reconstruct share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import RivalError
from ..rival_core.sampling.inpainting import Inpainting
from ..rival_core.sampling.noise import STARTS, partial_latents, regional_start
from ..rival_core.steering.exemplar import Exemplar
from . import checks, host
from .schema import RivalChain

START_TOOLTIP = (
    "Where generation starts. shuffle: the photo's inverted noise with its positions shuffled by "
    "the seed, as in the paper. gaussian: noise with its per-channel statistics. inverted: that "
    "noise itself, for edits that keep the layout."
)


def seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="The same seed gives the same image; each batch item draws its own start.",
    )


def start_input() -> io.Input:
    return io.Combo.Input("start", options=list(STARTS), default="shuffle", tooltip=START_TOOLTIP)


def chain_input() -> io.Input:
    return RivalChain.Input("chain", tooltip="The photo, from RIVAL Invert.")


def start_noise(
    chain: Chain,
    seed: int,
    start: str,
    size: tuple,
    draws: list[int],
    sigma: float | None = None,
    exemplars: Sequence[Exemplar] = (),
    picture: Tensor | None = None,
) -> Tensor:
    """The noise that the host, scaling it on an empty latent, turns into the start latents.

    sigma: one of the chain's below its top, to start there from the picture, [1 or len(draws), C,
    *size] in the model's latent space, or the photo. exemplars: of the model that will sample;
    where another photo acts in a mask, a start at the top is that photo's.
    """
    if sigma is None or sigma >= chain.top:
        latents = regional_start(chain, exemplars, size, draws, seed, start)
        return latents / chain.scaling.noise_scale(chain.top)
    if picture is None and size != chain.grid:
        raise RivalError(
            f"denoise is below 1 (or the sigmas are a part) and the empty latent is {size[-2:]}, "
            f"the photo's {chain.size}: give one of that size, or a picture, or set denoise to 1"
        )
    latents = partial_latents(chain, sigma, draws, seed, start, picture)
    return latents / chain.scaling.noise_scale(sigma)


def sigmas_from(chain: Chain, denoise: float, end_at_zero: bool) -> Tensor:
    """The chain's falling sigmas, or the last `denoise` of their steps; at least one."""
    skipped = chain.steps - max(1, round(denoise * chain.steps))
    return chain.falling_sigmas(end_at_zero)[skipped:]


def target(latent: dict | None, chain: Chain, batch_size: int) -> tuple[tuple, list[int]]:
    """The target's grid (see Chain), and which draw of the seed each batch item takes.

    latent: as the host's samplers take it for the chain's model.
    """
    if latent is None:
        return chain.grid, list(range(batch_size))
    samples = latent["samples"]
    other = getattr(samples, "is_nested", False) or samples.ndim != chain.latents.ndim
    if other or not samples.numel():
        raise RivalError(f"the latent has the shape {list(samples.shape)}: give a latent of images")
    checks.one_frame(samples)
    return tuple(samples.shape[2:]), draws_of(latent, batch_size)


def draws_of(latent: dict, batch_size: int) -> list[int]:
    """Which draw of the seed each item takes: of a LATENT, every image so many times."""
    count = latent["samples"].shape[0]
    if count > 1 and batch_size > 1:
        raise RivalError(
            f"batch_size is {batch_size} and the latent already holds {count} images: set one of "
            "them to 1"
        )
    first = list(latent.get("batch_index", range(count)))
    if len(first) != count:
        raise RivalError(
            f"the latent holds {count} images and its batch_index {len(first)} entries: make it "
            "anew with Latent From Batch"
        )
    return [j + i for j in first for i in range(batch_size)]


def has_picture(latent: dict | None) -> bool:
    """Whether there is more in a LATENT than a size: Empty Latent Image gives zeros."""
    return latent is not None and bool(latent["samples"].any())


def picture(model, chain: Chain, latent: dict | None, sigma: float) -> Tensor | None:
    """[B, C, H, W]: what a start at sigma keeps of a LATENT, in the model's latent space.

    At the chain's top that is nothing.
    """
    if sigma >= chain.top or not has_picture(latent):
        return None
    samples = checks.pictures(latent, chain.latents.shape[1], "to start from")
    image = host.to_model_space(model, samples)
    if image.shape == chain.end.shape and torch.allclose(image, chain.end.to(image), 1e-3, 1e-3):
        raise RivalError(
            "the latent is the noise of RIVAL Invert, and no picture: leave it unconnected, for "
            "the chain brings its noise along"
        )
    return image


def is_photo(picture: Tensor, chain: Chain) -> bool:
    """Whether a picture in the model's latent space is the chain's own."""
    clean = chain.clean.to(picture)
    return picture.shape[1:] == clean.shape[1:] and torch.allclose(
        picture, clean.expand_as(picture), 1e-4, 1e-4
    )


def inpainting(
    model, chain: Chain, latent: dict | None, seed: int, draws: list[int]
) -> Inpainting | None:
    """What a latent with a noise_mask asks to be filled, one image for each draw."""
    if latent is None or latent.get("noise_mask") is None:  # some nodes leave None there
        return None
    samples = checks.pictures(latent, chain.latents.shape[1], "to be inpainted")
    samples = samples.repeat(len(draws) // len(samples), *[1] * (samples.ndim - 1))
    mask = host.latent_mask(latent["noise_mask"], samples)
    image = host.to_model_space(model, samples)
    return Inpainting(chain, image, mask, host.unit_noise(samples, seed, draws))
