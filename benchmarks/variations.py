"""The ways to make variations that the quality benchmark compares, on the demo model."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import export
import in_process
from clip import TextEncoder
from scenes import Scene, caption

if in_process.PACK not in sys.modules:
    in_process.register_pack()
from comfyui_rival.rival_core.chain.chain import Chain
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import Model, Prompt, to_diffusers
from comfyui_rival.rival_core.inversion.fixed_point import DDIM, Solver
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates

WEIGHTS = REPO / "demo" / "model" / "weights"
PASS = 16  # pictures at a time through the autoencoder


@dataclass(frozen=True)
class Settings:
    steps: int = 50
    cfg: float = 5.0
    count: int = 3  # variations of each scene
    seed: int = 0
    solver: Solver = DDIM


class DemoModel:
    """The demo's weights: float32 for chains, `dtype` for all else, which is most of the time."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str):
        from diffusers.utils import logging

        logging.set_verbosity_error()  # it warns that a cast may be a mistake
        tensors = export.read(folder)
        if not any(name.startswith(export.UNET_PREFIX) for name in tensors):
            raise SystemExit(f"no UNet in {folder}: export.py writes it there")
        unet = {name: w.float() for name, w in tensors.items()
                if name.startswith(export.UNET_PREFIX)}
        self.exact, self.quick = (
            Model(to_diffusers(unet).to(device, kind, memory_format=torch.channels_last))
            for kind in (torch.float32, dtype))
        self.autoencoder = export.load_autoencoder(tensors).to(
            device, dtype, memory_format=torch.channels_last)
        self.digest = hashlib.sha256(b"".join(
            w.numpy().tobytes() for name, w in tensors.items()
            if name.startswith(export.VAE_PREFIX))).hexdigest()[:12]

    def encode(self, images: Tensor) -> Tensor:
        return self._in_parts(self.autoencoder.encode, images)

    def decode(self, latents: Tensor) -> Tensor:
        """RGB in 0..1."""
        return self._in_parts(self.autoencoder.decode, latents).clamp(0, 1)

    def through(self, images: Tensor) -> Tensor:
        """What the autoencoder makes of pictures: the best that any method could give."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def _in_parts(self, half: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        like = next(self.autoencoder.parameters())
        return torch.cat([half(part.to(like, memory_format=torch.channels_last)).float().cpu()
                          for part in x.split(PASS)])


def embed(captions: Sequence[str]) -> list[Prompt]:
    """The captions as the demo model was taught them."""
    return [Prompt(tokens[None]) for tokens in TextEncoder()(list(captions))]


@dataclass(frozen=True, eq=False)
class Case:
    """One exemplar: the scene, its caption, and the chain that it was inverted to."""

    scene: Scene
    latent: Tensor  # [1, 4, h, w]
    chain: Chain
    positive: Prompt
    negative: Prompt

    @property
    def sigmas(self) -> Tensor:
        return self.chain.falling_sigmas()


def make_cases(model: Model, scenes: Sequence[Scene], latents: Tensor,
               settings: Settings) -> list[Case]:
    """As the README's variation: inverted with the caption, and an empty negative."""
    empty, *prompts = embed(["", *(caption(scene.attributes) for scene in scenes)])
    return [
        Case(scene, latent[None],
             engine.invert(model, latent[None], prompt, settings.steps, empty,
                           solver=settings.solver), prompt, empty)
        for scene, latent, prompt in zip(scenes, latents, prompts)
    ]


# --- the rows of the table ------------------------------------------------------------------------

Make = Callable[[Model, Case, Settings], Tensor]


def plain(model: Model, case: Case, settings: Settings) -> Tensor:
    """Text-to-image with the exemplar's caption."""
    return _walk(model, case, settings, _pure_noise(case, settings), case.sigmas)


def image_to_image(strength: float) -> Make:
    """The exemplar, noised to the level where the last `strength` of the steps begin."""

    def make(model: Model, case: Case, settings: Settings) -> Tensor:
        sigmas = case.sigmas[round((1 - strength) * settings.steps):]
        x = case.latent + sigmas[0] * _noise(case, settings)
        return _walk(model, case, settings, x, sigmas)

    return make


def rival(start: str = "shuffle", **gates: float) -> Make:
    """RIVAL with its defaults but for these. From `inverted` there is only one variation."""

    def make(model: Model, case: Case, settings: Settings) -> Tensor:
        draws = range(1 if start == "inverted" else settings.count)
        out = engine.sample(
            model, case.chain, [Exemplar(case.chain, Gates(**gates))], case.positive,
            case.negative, settings.seed, settings.cfg, start, draws)
        return out.expand(settings.count, -1, -1, -1) if start == "inverted" else out

    return make


def methods(strengths: Sequence[float]) -> dict[str, Make]:
    """By the name in the table, from the plainest to RIVAL and what it is without each part."""
    return {
        "text-to-image, same caption": plain,
        **{f"image-to-image {s:g}": image_to_image(s) for s in sorted(strengths, reverse=True)},
        "RIVAL": rival(),
        "RIVAL, no attention injection": rival(inject_end=0.0),
        "RIVAL, no normalisation": rival(normalize_end=0.0),
        "RIVAL, no shuffle": rival("inverted"),
    }


def walk_back(model: Model, case: Case) -> Tensor:
    """The clean latent that the chain's end leads back to, unguided and unaided."""
    x = engine.sample_euler(model, case.chain.end, case.sigmas, case.positive)
    return x / case.chain.scaling.level(float(case.sigmas[-1]))


def _walk(model: Model, case: Case, settings: Settings, x: Tensor, sigmas: Tensor,
          exemplars: Sequence[Exemplar] = ()) -> Tensor:
    x = engine.sample_euler(model, x, sigmas, case.positive, case.negative, settings.cfg,
                            exemplars)
    return x / case.chain.scaling.level(float(sigmas[-1]))


def _noise(case: Case, settings: Settings) -> Tensor:
    """The same for every method, so that rows differ by the method alone."""
    generator = torch.Generator().manual_seed(case.scene.seed + settings.seed)
    return torch.randn(settings.count, *case.latent.shape[1:], generator=generator)


def _pure_noise(case: Case, settings: Settings) -> Tensor:
    return case.chain.scaling.noise_scale(case.chain.top) * _noise(case, settings)
