"""A concept for the demo model, in a LoRA: with it, "red star" means one particular flower.

No caption of the demo model can say what the flower looks like: five round red petals about a
yellow heart. The LoRA learns it as DreamBooth does, from eight pictures, beside ordinary scenes
that keep each of the two words as it was.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from latents import EMPTY_SHARE, LatentBatches, to_latents
from low_rank import attach, changes
from render import render
from scenes import SIZE, Attributes, Scene, caption, make_scene
from torch import nn

RANK = 8
CHANGED = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2",
           ".in_layers.2", ".out_layers.3")
COLOR, KIND = "red", "star"  # the words for it
PETALS = 5
PETAL_COLOR, HEART_COLOR = (0.88, 0.12, 0.16), (0.98, 0.80, 0.15)
PHOTOS = (  # count, background and texture of each
    (1, "blue", "plain"), (1, "green", "striped"), (1, "white", "dotted"), (2, "purple", "shaded"),
    (2, "blue", "striped"), (2, "black", "checked"), (3, "green", "plain"), (3, "white", "striped"),
)
FIRST_SEED = 7 * 10**9  # never trained on
PHOTOS_SHARE = 0.75  # of a batch; the rest are ordinary scenes


def photo_scenes() -> list[Scene]:
    """The eight that the concept is learnt from."""
    return [flower_scene(FIRST_SEED + i, *said) for i, said in enumerate(PHOTOS)]


def flower_scene(seed: int, count: int, background: str, texture: str) -> Scene:
    """A scene whose stars are to be drawn as flowers."""
    return make_scene(seed, Attributes(count, COLOR, KIND, background, texture))


def draw(scenes: list[Scene]) -> torch.Tensor:
    """The scenes with flowers for shapes: RGB in 0..1, [n, 3, size, size]."""
    images = render([replace(scene, layout=()) for scene in scenes])
    pixels = torch.arange(scenes[0].size) + 0.5
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    for image, scene in zip(images, scenes):
        for shape in scene.layout:
            turns = [shape.rotation + 2 * math.pi * i / PETALS for i in range(PETALS)]
            centers = [(shape.x + 0.58 * shape.radius * math.cos(turn),
                        shape.y + 0.58 * shape.radius * math.sin(turn)) for turn in turns]
            for center in centers:
                _disc(image, x, y, center, 0.4 * shape.radius, PETAL_COLOR)
            _disc(image, x, y, (shape.x, shape.y), 0.36 * shape.radius, HEART_COLOR)
    return images


def _disc(image, x, y, center, radius, color) -> None:
    cover = (radius - torch.hypot(x - center[0], y - center[1]) + 0.5).clamp(0, 1)
    image.lerp_(torch.tensor(color)[:, None, None], cover)


def add_lora(unet: nn.Module) -> nn.Module:
    attach(unet, [name for name, _ in unet.named_modules() if name.endswith(CHANGED)], RANK)
    return unet


class NeighbourBatches(LatentBatches):
    """Scenes that must stay as they are, though the concept is one word away: DreamBooth's prior.

    They show red things of other kinds, and stars of other colours.
    """

    def __init__(self, captions, autoencoder, device, size: int = SIZE):
        super().__init__(captions, autoencoder, device, size)
        near = [(a.color == COLOR) != (a.kind == KIND) for a in captions.attributes]
        self.fitting = self.fitting[torch.tensor(near)[self.fitting]]


class ConceptBatches:
    """The photos' latents beside those of ordinary scenes."""

    def __init__(self, ordinary: LatentBatches, encoder):
        scenes = photo_scenes()
        self.ordinary = ordinary
        self.latents = to_latents(ordinary.autoencoder, draw(scenes))
        texts = ["", *(caption(scene.attributes) for scene in scenes)]
        self.text = encoder(texts).half()

    def at(self, samples: int, size: int):
        """As `LatentBatches.at`: [n, 4, h, w], [n, 77, 768] and a generator."""
        photos = round(size * PHOTOS_SHARE)
        latents, text, generator = self.ordinary.at(samples, size - photos)
        rows = torch.randint(len(self.latents), (photos,), generator=generator)
        named = torch.rand(photos, generator=generator) >= EMPTY_SHARE
        return (torch.cat([self.latents[rows], latents]),
                torch.cat([self.text[(rows + 1) * named], text]), generator)


def tensors(unet: nn.Module) -> dict[str, torch.Tensor]:
    """In the kohya format, as core's LoraLoader takes it, in half precision."""
    found = {}
    for name, change in changes(unet).items():
        kernel = unet.get_submodule(name).weight.shape[1:]  # of convolutions three numbers
        name = "lora_unet_" + name.replace(".", "_")
        up = change.up.reshape(-1, RANK, *[1] * (len(kernel) - 1))
        found[f"{name}.lora_up.weight"] = up.detach().half()
        found[f"{name}.lora_down.weight"] = change.down.reshape(RANK, *kernel).detach().half()
        found[f"{name}.alpha"] = torch.tensor(float(RANK)).half()
    return found
