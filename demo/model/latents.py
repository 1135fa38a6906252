"""Stage two's data: scenes as latents of the trained encoder, with their captions' embeddings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from autoencoder import Autoencoder
from clip import TextEncoder
from render import render
from scenes import SIZE, Scene, caption, make_scene
from split import trained_attributes

SCENES_PER_ROUND = 512  # drawn and encoded at once
PASSES = 6  # over each round: encoding a scene costs as much as a third of a training step
EMPTY_SHARE = 0.1  # of captions left out, so that the empty prompt and guidance work
ENCODE_BATCH = 64
ROOM = 64**2 / 2  # pixels per shape: scenes that crowd more into a small picture are left out


class Captions:
    """Embeddings of the captions to train on, made once and kept in a file."""

    def __init__(self, count: int | None, folder: Path, device: torch.device):
        self.attributes = trained_attributes(count)
        self.texts = ["", *map(caption, self.attributes)]
        digest = hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:8]
        path = folder / f"captions-{digest}.pt"
        if path.exists():
            self.embedded = torch.load(path, weights_only=True).to(device)
            return
        print(f"embedding {len(self.texts)} captions", flush=True)
        self.embedded = TextEncoder(device)(self.texts).half()
        if device.type == "cpu":  # a GPU is quicker than the disk
            torch.save(self.embedded, path)


class LatentBatches:
    """Latents and captions; a batch depends on nothing but how many samples came before it."""

    empty_share = EMPTY_SHARE

    def __init__(self, captions: Captions, autoencoder: Autoencoder, device: torch.device,
                 size: int = SIZE):
        self.captions, self.device, self.size = captions, device, size
        self.fitting = torch.tensor([row for row, attributes in enumerate(captions.attributes)
                                     if attributes.count * ROOM <= size**2])
        self.autoencoder = autoencoder.to(device, memory_format=torch.channels_last).eval()
        self.round = -1
        self.latents = torch.empty(0)

    def at(self, samples: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
        """The next batch of this size, and the generator that its noise is to come from."""
        generator = torch.Generator().manual_seed(samples)
        round_now, place = divmod(samples, SCENES_PER_ROUND * PASSES)
        if round_now != self.round:
            self._draw(round_now)
        pass_now, place = divmod(place, SCENES_PER_ROUND)
        order = torch.Generator().manual_seed(round_now * PASSES + pass_now)
        rows = torch.randperm(SCENES_PER_ROUND, generator=order).roll(-place)
        self.rows = rows = rows.repeat(size // SCENES_PER_ROUND + 1)[:size]
        named = torch.rand(size, generator=generator) >= self.empty_share
        text = self.captions.embedded[(self.rows_of_text[rows] * named).to(self.device)]
        return self.latents[rows.to(self.device)], text, generator

    def _draw(self, round_now: int) -> None:
        first = round_now * SCENES_PER_ROUND
        choice = torch.Generator().manual_seed(round_now)
        drawn = self.fitting[torch.randint(len(self.fitting), (SCENES_PER_ROUND,),
                                           generator=choice)]
        self.scenes = [make_scene(first + i, self.captions.attributes[row], self.size)
                       for i, row in enumerate(drawn.tolist())]
        self.latents = encode(self.autoencoder, self.scenes, self.device)
        self.rows_of_text, self.round = drawn + 1, round_now


@torch.no_grad()
def encode(autoencoder: Autoencoder, scenes: list[Scene], device: torch.device) -> torch.Tensor:
    return torch.cat([
        to_latents(autoencoder, render(scenes[start:start + ENCODE_BATCH], device))
        for start in range(0, len(scenes), ENCODE_BATCH)
    ])


@torch.no_grad()
def to_latents(autoencoder: Autoencoder, images: torch.Tensor) -> torch.Tensor:
    """[n, 3, h, w] in 0..1 to [n, 4, h/8, w/8]."""
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = autoencoder.encode(images.contiguous(memory_format=torch.channels_last))
    return latents.float()
