"""The variation workflow without a ComfyUI: the pack's algorithms on the demo model in diffusers.

Small enough for any CPU, which gives the same pictures everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import assemble
import in_process
import numpy as np
import torch
from errors import DemoError
from exemplars import Exemplar
from options import Options
from pictures import STAGES, Pictures
from PIL import Image
from progress import Progress
from vocabulary import Vocabulary


class DiffusersEngine:
    def __str__(self) -> str:
        import diffusers

        return f"diffusers {diffusers.__version__}, without ComfyUI"

    def run(self, options: Options, exemplars: Sequence[Exemplar]) -> list[Pictures]:
        for exemplar in exemplars:
            check_prompt(exemplar.prompt)
        model = DemoModel()
        return [vary(model, exemplar, options) for exemplar in exemplars]


def check_prompt(text: str) -> None:
    vocabulary = Vocabulary()
    if unknown := vocabulary.unknown(text):
        raise DemoError(
            f"the demo model does not know the word {unknown[0]!r}: use those of its captions "
            f"({', '.join(vocabulary.words)}), or give a --checkpoint and use ComfyUI"
        )


class DemoModel:
    """The demo model's three parts; latents are in the model's own space."""

    def __init__(self):
        import export
        from clip import TextEncoder

        assemble.parts()
        weights = export.read(assemble.WEIGHTS)
        in_process.register_pack()
        from comfyui_rival.rival_core.diffusers import model as diffusers_model

        self.prompt_type = diffusers_model.Prompt
        self.denoiser = diffusers_model.Model(diffusers_model.to_diffusers(weights))
        self.autoencoder = diffusers_model.to_tiny_autoencoder(weights)
        self.text = TextEncoder()

    def prompt(self, text: str):
        return self.prompt_type(self.text([text]))

    @torch.no_grad()
    def encode(self, picture: Image.Image) -> torch.Tensor:
        """[1, 4, h, w]."""
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        return self.autoencoder.encode(pixels.movedim(-1, 0)[None] * 2 - 1).latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[bytes]:
        """A PNG file of each latent."""
        pixels = (self.autoencoder.decode(latents).sample.clamp(-1, 1) + 1) / 2 * 255
        return [png(image) for image in pixels.byte().movedim(1, -1).numpy()]


def vary(model: DemoModel, exemplar: Exemplar, options: Options) -> Pictures:
    """What the variation workflow does, and a walk back along the chain with the plain model."""
    from comfyui_rival.rival_core.diffusers import engine
    from comfyui_rival.rival_core.steering.step import Exemplar as Steered

    empty, caption = model.prompt(""), model.prompt(exemplar.caption)
    with Progress(exemplar.name, STAGES, options.steps) as progress:
        chain = engine.invert(
            model.denoiser, model.encode(exemplar.picture), caption, options.steps,
            callback=report(progress, "invert", options.steps),
        )  # fmt: skip
        variations = engine.sample(
            model.denoiser, chain, [Steered(chain)], model.prompt(exemplar.prompt), empty,
            options.seed, exemplar.cfg, draws=range(options.variations),
            callback=report(progress, "sample", options.steps),
        )  # fmt: skip
        again = engine.sample(
            model.denoiser, chain, [], caption, cfg=1.0, start="inverted",
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
