"""The variation workflow without a ComfyUI: the pack's algorithms on the demo's own models.

The UNet runs in diffusers, the flow model in its own code. Both are small enough for any CPU, which
gives the same pictures everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import second_engine
import torch
from errors import DemoError
from exemplars import Exemplar
from options import SOLVER, UNET, Options
from pictures import STAGES, Pictures
from PIL import Image
from progress import Progress
from vocabulary import Vocabulary


class DiffusersEngine:
    def __init__(self, model: str):
        self.model = model

    def __str__(self) -> str:
        import diffusers

        used = f"diffusers {diffusers.__version__}" if self.model == UNET else "PyTorch alone"
        return f"{used}, without ComfyUI"

    def run(self, options: Options, exemplars: Sequence[Exemplar]) -> list[Pictures]:
        for exemplar in exemplars:
            check_prompt(exemplar.prompt)
        model = DemoModel(self.model)
        return [vary(model, exemplar, options) for exemplar in exemplars]


def check_prompt(text: str) -> None:
    vocabulary = Vocabulary()
    if unknown := vocabulary.unknown(text):
        raise DemoError(
            f"the demo model does not know the word {unknown[0]!r}: use those of its captions "
            f"({', '.join(vocabulary.words)}), or give a --checkpoint and use ComfyUI"
        )


class DemoModel:
    """One of the demo's models; latents are in the model's own space."""

    def __init__(self, name: str):
        parts = second_engine.MODELS[name]()
        self.network, self.autoencoder = parts.network(), parts.autoencoder()
        self.prompts, self.gates = parts.prompts, parts.gates

    @torch.no_grad()
    def encode(self, picture: Image.Image) -> torch.Tensor:
        """[1, C, h, w]."""
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        return self.autoencoder.encode(pixels.movedim(-1, 0)[None])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[bytes]:
        """A PNG file of each latent."""
        pixels = self.autoencoder.decode(latents).clamp(0, 1) * 255
        return [png(image) for image in pixels.byte().movedim(1, -1).numpy()]


def vary(model: DemoModel, exemplar: Exemplar, options: Options) -> Pictures:
    """What the variation workflow does, and a walk back along the chain with the plain model."""
    from comfyui_rival.rival_core.diffusers import engine
    from comfyui_rival.rival_core.inversion.fixed_point import Solver
    from comfyui_rival.rival_core.steering.gates import Gates
    from comfyui_rival.rival_core.steering.step import Exemplar as Steered

    network = model.network
    empty, caption, prompt = model.prompts(["", exemplar.caption, exemplar.prompt])
    with Progress(exemplar.name, STAGES, options.steps) as progress:
        chain = engine.invert(
            network, model.encode(exemplar.picture), caption, options.steps,
            callback=report(progress, "invert", options.steps), solver=Solver(*SOLVER.values()),
        )  # fmt: skip
        variations = engine.sample(
            network, chain, [Steered(chain, Gates(**model.gates))], prompt, empty, options.seed,
            exemplar.cfg, draws=range(options.variations),
            callback=report(progress, "sample", options.steps),
        )  # fmt: skip
        again = engine.sample(
            network, chain, [], caption, cfg=1.0, start="inverted",
            callback=report(progress, "reconstruct", options.steps),
        )  # fmt: skip
    return Pictures(model.decode(again)[0], model.decode(variations))


def report(progress: Progress, stage: str, steps: int) -> Callable[[dict], None]:
    """Announces the stage; the engine then calls what this returns after every step."""
    progress(stage, 0, 0)
    return lambda state: progress(stage, state["i"] + 1, steps)


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
