"""The ways to make variations that the quality benchmark compares, on the demo model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "harness"), str(REPO / "demo" / "model")]

import assemble
import second_engine
from comfyui_rival.rival_core.chain.chain import Chain
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.port import Network
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from report import PLAIN, RIVAL
from scenes import Scene, caption
from second_engine import Prompt

PASS = 16  # pictures at a time through the autoencoder
ANDERSON = Solver("anderson", 10)


@dataclass(frozen=True)
class Settings:
    steps: int = 20
    cfg: float = 2.5
    count: int = 3  # variations of each scene
    seed: int = 0
    solver: Solver = ANDERSON


class DemoModel:
    """One of the demo's models: float32 for chains, `dtype` for all else, which takes the time."""

    def __init__(self, name: str, folder: Path, dtype: torch.dtype, device: str):
        try:
            model = second_engine.MODELS[name](folder)
        except assemble.MissingWeights as error:
            raise SystemExit(str(error)) from error
        self.exact, self.quick = (model.network(kind, device) for kind in (torch.float32, dtype))
        self.embed, self.gates = model.prompts, model.gates
        autoencoder = model.autoencoder()
        self.digest = second_engine.digest(autoencoder)
        self.autoencoder = autoencoder.to(device, memory_format=torch.channels_last)
        self.device, self.is_half = device, dtype != torch.float32

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
        parts = (part.to(self.device, memory_format=torch.channels_last) for part in x.split(PASS))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.is_half):
            return torch.cat([half(part).float().cpu() for part in parts])


@dataclass(frozen=True, eq=False)
class Case:
    """One exemplar: the scene, its caption, and the chain that it was inverted to."""

    scene: Scene
    latent: Tensor  # [1, C, h, w]
    chain: Chain
    positive: Prompt
    negative: Prompt

    @property
    def sigmas(self) -> Tensor:
        return self.chain.falling_sigmas()


def make_cases(model: DemoModel, scenes: Sequence[Scene], latents: Tensor, settings: Settings,
               cfg: float = 1.0, captioned: bool = True,
               sigmas: Tensor | None = None) -> list[Case]:
    """As the README's variation: inverted with the caption, and an empty negative.

    cfg: of the inversion. captioned: else the prompts are empty, too. sigmas: falling, in place of
    the walk that suits the model.
    """
    texts = [caption(scene.attributes) if captioned else "" for scene in scenes]
    empty, *prompts = model.embed(["", *texts])
    return [
        Case(scene, latent[None],
             engine.invert(model.exact, latent[None], prompt, settings.steps, empty, cfg,
                           sigmas, solver=settings.solver), prompt, empty)
        for scene, latent, prompt in zip(scenes, latents, prompts)
    ]


# --- the rows of the table ------------------------------------------------------------------------

Make = Callable[[Network, Case, Settings], Tensor]
Layers = frozenset | None  # in which a photo is read; None: in all


def plain(model: Network, case: Case, settings: Settings) -> Tensor:
    """Text-to-image with the exemplar's caption."""
    return _walk(model, case, settings, _pure_noise(case, settings), case.sigmas)


def image_to_image(strength: float) -> Make:
    """The exemplar, noised to the level where the last `strength` of the steps begin."""

    def make(model: Network, case: Case, settings: Settings) -> Tensor:
        sigmas = case.sigmas[round((1 - strength) * settings.steps):]
        kept = case.chain.scaling.clean_share(float(sigmas[0]))
        x = kept * case.latent + sigmas[0] * _noise(case, settings)
        return _walk(model, case, settings, x, sigmas)

    return make


def rival(start: str = "shuffle", positions: str = "beside", layers: Layers = None,
          **gates: float) -> Make:
    """RIVAL with its defaults but for these. From `inverted` there is only one variation.

    positions: of the flow model; the UNet has none.
    """

    def make(model: Network, case: Case, settings: Settings) -> Tensor:
        draws = range(1 if start == "inverted" else settings.count)
        exemplar = Exemplar(case.chain, Gates(**gates), positions=positions, layers=layers)
        out = engine.sample(
            model, case.chain, [exemplar], case.positive, case.negative, settings.seed,
            settings.cfg, start, draws)
        return out.expand(settings.count, -1, -1, -1) if start == "inverted" else out

    return make


def methods(strengths: Sequence[float], gates: Mapping[str, float],
            has_positions: bool) -> dict[str, Make]:
    """By the name in the table, from the plainest to RIVAL and what it is without each part.

    gates: that suit the model. That the text's keys are read twice, as often as the image's, is no
    part to leave out: both of the demo's models attend to the text apart from the image.
    """
    others = ("shuffled", "same") if has_positions else ()
    other_start = 0.0 if gates else 0.5
    return {
        PLAIN: plain,
        **{f"image-to-image {s:g}": image_to_image(s) for s in sorted(strengths, reverse=True)},
        RIVAL: rival(**gates),
        "RIVAL, no attention injection": rival(inject_end=0.0),
        "RIVAL, no normalisation": rival(**gates, normalize_end=0.0),
        "RIVAL, start gaussian": rival("gaussian", **gates),
        "RIVAL, no shuffle": rival("inverted", **gates),
        **{f"RIVAL, positions {name}": rival(positions=name, **gates) for name in others},
        f"RIVAL, injected from {other_start:g} on": rival(inject_start=other_start),
    }


def walk_back(model: Network, case: Case) -> Tensor:
    """The clean latent that the chain's end leads back to, unguided and unaided."""
    x = engine.sample_euler(model, case.chain.end, case.sigmas, case.positive)
    return x / case.chain.scaling.level(float(case.sigmas[-1]))


def _walk(model: Network, case: Case, settings: Settings, x: Tensor, sigmas: Tensor,
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
