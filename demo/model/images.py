"""Stage one: the autoencoder learns to draw crops of scenes through four latent channels."""

from __future__ import annotations

import torch
from autoencoder import Autoencoder
from render import render
from scenes import SIZE, make_scene

CROP = 64  # pixels
SCENES_PER_ROUND = 128  # drawn at once
CROPS_PER_SCENE = 4
NOISE = 0.1  # added to latents before decoding, so that near latents decode to near images
MOMENTS = 0.02  # weight of the penalty that keeps latents white
FIRST_SEED = 10**9  # the UNet's scenes come from other seeds


class ImageBatches:
    """Random crops; a batch depends on nothing but how many samples came before it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.round = -1
        self.images = torch.empty(0)

    def at(self, samples: int, size: int) -> tuple[torch.Tensor, torch.Generator]:
        """The next batch of this size, and the generator that its noise is to come from."""
        self.draw(samples)
        generator = torch.Generator().manual_seed(samples)
        rows = torch.randint(SCENES_PER_ROUND, (size,), generator=generator)
        corners = torch.randint(SIZE - CROP + 1, (size, 2), generator=generator)
        crops = [self.images[row, :, y:y + CROP, x:x + CROP]
                 for row, (y, x) in zip(rows.tolist(), corners.tolist())]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last), generator

    def draw(self, samples: int) -> None:
        """The scenes of the round that comes after so many crops, as images."""
        round_now = samples // (SCENES_PER_ROUND * CROPS_PER_SCENE)
        if round_now != self.round:
            first = FIRST_SEED + round_now * SCENES_PER_ROUND
            scenes = [make_scene(seed) for seed in range(first, first + SCENES_PER_ROUND)]
            self.images, self.round = render(scenes, self.device), round_now


def autoencoder_loss(model: Autoencoder, images: torch.Tensor, generator: torch.Generator,
                     decoder_only: bool = False) -> torch.Tensor:
    """Absolute and squared error of the decoded crops, and the latents' distance from white."""
    with torch.autocast(images.device.type, torch.bfloat16):
        with torch.set_grad_enabled(not decoder_only):
            latents = model.encode(images)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        error = model.decode(latents + NOISE * noise).float() - images
    loss = error.abs().mean() + 2 * error.square().mean()
    return loss if decoder_only else loss + MOMENTS * distance_from_white(latents.float())


def distance_from_white(latents: torch.Tensor) -> torch.Tensor:
    """Squared difference of the channels' moments from zero mean and unit covariance."""
    channels = latents.transpose(0, 1).flatten(1)
    mean = channels.mean(dim=1, keepdim=True)
    covariance = (channels - mean) @ (channels - mean).T / channels.shape[1]
    identity = torch.eye(len(channels), device=latents.device)
    return mean.square().sum() + (covariance - identity).square().sum()
