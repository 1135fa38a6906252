"""The wide autoencoder's data and loss: crops of scenes and of photos."""

from __future__ import annotations

import math

import torch
from images import ImageBatches, distance_from_white
from photos import crop, draw, training_photos
from render import render
from scenes import SIZE, make_scene
from wide_autoencoder import WideAutoencoder

CROP = 48  # pixels
TRIES = 3  # crops of a scene, of which the one with most in it is taken
PHOTO_SHARE = 0.25
NOISE = 0.05
MOMENTS = 0.003
FLOOR = 1e-4  # squared error below which a crop counts less and less
MEASURED_SEEDS = range(6 * 10**9, 6 * 10**9 + 64)  # never trained on


class MixedBatches:
    """Crops of scenes and a few of photos; a batch depends on nothing but how many came before."""

    def __init__(self, device: torch.device):
        self.scenes, self.photos = ImageBatches(device), training_photos()

    def at(self, samples: int, size: int) -> tuple[torch.Tensor, torch.Generator]:
        """[n, 3, 48, 48] and the generator that the batch's noise is to come from."""
        self.scenes.draw(samples)
        generator = torch.Generator().manual_seed(samples)
        photos = math.ceil(size * PHOTO_SHARE)
        crops = [self._busiest(generator) for _ in range(size - photos)]
        crops += [crop(self.photos, CROP, generator) for _ in range(photos)]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last), generator

    def _busiest(self, generator: torch.Generator) -> torch.Tensor:
        scene = self.scenes.images[draw(len(self.scenes.images), generator)]
        corners = torch.randint(SIZE - CROP + 1, (TRIES, 2), generator=generator).tolist()
        crops = [scene[:, y:y + CROP, x:x + CROP] for y, x in corners]
        return max(crops, key=lambda c: c.diff(dim=2).square().mean().item())


def wide_loss(model: WideAutoencoder, images: torch.Tensor,
              generator: torch.Generator) -> torch.Tensor:
    """Root mean square error, crop by crop, and how far the latents are from white."""
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = model.encode(images)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        error = model.decode(latents + NOISE * noise).float() - images
    of_crop = (error.square().mean(dim=(1, 2, 3)) + FLOOR).sqrt()
    return of_crop.mean() + MOMENTS * distance_from_white(latents.float())


@torch.no_grad()
def decibels(model: WideAutoencoder, images: torch.Tensor) -> float:
    """Peak signal to noise of what comes back, [n, 3, h, w] in 0..1."""
    back = torch.cat([model.decode(model.encode(part)).clamp(0, 1) for part in images.split(16)])
    return -10 * math.log10((back - images).square().mean().item())


def measured_scenes(size: int) -> torch.Tensor:
    return render([make_scene(seed, size=size) for seed in MEASURED_SEEDS])
