"""A custom node folder for the tests' server: what stands in for files too large for tests.

The host's loaders are asked as ever, by the workflow's own nodes, for the files that it names. Such
a file holds nothing but a tensor `standin.<name>`, and is then, in place of gigabytes, a seeded
miniature of the family, a text encoder of a few random tokens, or a mosaic. No node of its own.
"""

from __future__ import annotations

import functools
import inspect
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import comfy.sd
import torch
from safetensors import safe_open

SUPPORT = Path(__file__).resolve().parents[1]
sys.path += [str(SUPPORT), str(SUPPORT.parents[1] / "harness")]

import tiny_dits
from text_types import FAMILIES

NODE_CLASS_MAPPINGS: dict = {}
MARK = "standin."
TOKENS = 24  # of a text
GAIN = 3.0  # colours in -1..1 become latents of deviation about 1
SIDES = {16: 8, 128: 16, 4: 8}  # pixels to a side of one of so many channels


def mark_of(path: str) -> str | None:
    """What a file stands in for; None if it is what it seems."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    return next((k.removeprefix(MARK) for k in names if k.startswith(MARK)), None)


class Text:
    """A text encoder: a text's tokens are random, the same for the same text.

    width: of a token, if not the miniature's.
    """

    def __init__(self, family: str, width: int | None = None):
        self.family, self.width = family, width

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        seed = zlib.crc32(text.encode())
        ((tokens, options),) = tiny_dits.prompt_of(self.family, seed, TOKENS, self.width)
        options.pop("guidance", None)  # a node's to say
        return [[tokens, options]]


class Mosaic:
    """A VAE whose latents are the mean colours of squares, in every channel a mix of its own.

    channels: of a latent. frames: whether a latent has a time.
    """

    def __init__(self, channels: int, frames: bool):
        self.patcher = SimpleNamespace()  # on which hosts note where a VAE came from
        self.side, self.frames = SIDES[channels], frames
        generator = torch.Generator().manual_seed(channels)
        self.mix = torch.linalg.qr(torch.randn(channels, 3, generator=generator))[0]
        self.mix = self.mix * GAIN * channels**0.5 / 3**0.5

    def throw_exception_if_invalid(self) -> None: ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, H, W, 3] in 0..1."""
        colours = 2 * pixels[..., :3].movedim(-1, 1) - 1
        height, width = (size // self.side * self.side for size in colours.shape[2:])
        colours = torch.nn.functional.avg_pool2d(colours[..., :height, :width], self.side)
        latents = torch.einsum("cr,brhw->bchw", self.mix, colours)
        return latents.unsqueeze(2) if self.frames else latents

    def decode(self, latents: torch.Tensor, **options) -> torch.Tensor:
        latents = latents[:, :, 0] if latents.ndim == 5 else latents
        colours = torch.einsum("rc,bchw->brhw", torch.linalg.pinv(self.mix), latents.float())
        pixels = torch.nn.functional.interpolate(colours, scale_factor=self.side)
        return (pixels.movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def instead_of(name: str, given: str, stand_in) -> None:
    """Of a loader of comfy.sd's, where its argument `given` names marked files alone."""
    original = getattr(comfy.sd, name)

    @functools.wraps(original)
    def load(*args, **kwargs):
        bound = inspect.signature(original).bind(*args, **kwargs)
        paths = bound.arguments[given]
        marks = [mark_of(path) for path in ([paths] if isinstance(paths, str) else paths)]
        return stand_in(marks[0], bound.arguments) if all(marks) else original(*args, **kwargs)

    setattr(comfy.sd, name, load)


def text_of(mark: str, arguments: dict) -> Text:
    """By the type that the loader is told: of a wrong one the model cannot make sense."""
    width = mark.removeprefix("text")
    return Text(FAMILIES[arguments["clip_type"].name.lower()], int(width) if width else None)


def checkpoint_of(mark: str, arguments: dict) -> tuple:
    model = tiny_dits.build(mark)
    layout = model.model.latent_format
    return model, Text(mark), Mosaic(layout.latent_channels, layout.latent_dimensions == 3), None


class VAE(comfy.sd.VAE):
    def __new__(cls, sd=None, *args, **kwargs):
        mark = next((key for key in sd or () if key.startswith(MARK)), None)
        if mark is None:
            return super().__new__(cls)
        channels, frames = mark.removeprefix(MARK).split("x")
        return Mosaic(int(channels), frames == "1")


instead_of("load_diffusion_model", "unet_path", lambda mark, arguments: tiny_dits.build(mark))
instead_of("load_clip", "ckpt_paths", text_of)
instead_of("load_checkpoint_guess_config", "ckpt_path", checkpoint_of)
comfy.sd.VAE = VAE
