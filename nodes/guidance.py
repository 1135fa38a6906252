"""RIVAL Blended Guidance: guidance where the edit is to happen, and little elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import RivalError
from ..rival_core.sampling.guidance import Blend, Keep, attention_mask, attention_to, word_positions
from ..rival_core.steering.masks import RESOLUTIONS, resize_mask
from . import checks, host
from .schema import RivalChain, advanced, named, notify, output, schema
from .steering.changes import blend_guidance, keep_outside, kept_where_pulled
from .steering.run import GUIDANCE as NODE
from .values import checked

PROBES = 8  # of the chain's latents, spread evenly: where words attend changes from step to step
PIXELS = 8  # of an image to a side of a latent position


def word_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            tooltip="The caption that the photo was inverted with, word for word.",
        ),
        io.String.Input(
            "words",
            default="",
            tooltip="Words of that caption, with spaces between them: the mask is where they "
            "attend. Empty uses the mask alone.",
        ),
        io.Float.Input(
            "threshold",
            default=0.3,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Attention, as a share of its maximum, from which a place counts as the "
            "word's. 0 keeps the map soft.",
        ),
        advanced(
            io.Float.Input(
                "blur",
                default=1.0,
                min=0.0,
                max=32.0,
                step=0.1,
                tooltip="Softness of the found mask's edge, in latent pixels (8 image pixels).",
            )
        ),
        advanced(
            io.Combo.Input(
                "resolution",
                options=["auto", *RESOLUTIONS],
                default="auto",
                tooltip="Which of the model's attention layers are asked, by their share of the "
                "latent's size. auto: a quarter, or the nearest that there is.",
            )
        ),
    ]


def something_to_guide(words: str, mask: Any) -> None:
    if not split(words) and mask is None:
        raise RivalError("there is neither a mask nor a word: connect a mask, or name words")


def words_can_be_found(words: str, chain: Any, clip: Any) -> None:
    if (names := split(words)) and (chain is None or clip is None):
        raise RivalError(
            f"the words {names} need the chain and the clip: connect both, or clear the words"
        )


def words_are_apart(names: list[str], model: Any) -> None:
    """RivalError unless the model's text attends apart, where each word can be looked for."""
    if not host.port_of(model).has_words:
        raise RivalError(
            f"the words {names} cannot be found in this model's attention, in which text and image "
            "are one: give a mask, and clear the words"
        )


def photo_is_there(keep_photo: bool, chain: Any) -> None:
    if keep_photo and chain is None:
        raise RivalError("keep_photo needs the photo: connect its chain, or switch it off")


def split(words: str) -> list[str]:
    return words.replace(",", " ").split()


@checked(something_to_guide, words_can_be_found, photo_is_there)
class RivalBlendedGuidance(io.ComfyNode):
    """A guidance scale for every pixel (AIDI: blended guidance)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["regional cfg", "local edit", "masked guidance", "cross attention mask", "aidi"],
            node_id="RivalBlendedGuidance",
            display_name=NODE,
            description=(
                "Inside the mask the sampler's cfg, outside it a low guidance: the prompt changes "
                "one thing and leaves the rest. The mask is yours, or is found where words of the "
                "photo's caption attend (8 model calls, once), or both multiplied."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Patched or not; any sampler takes the result."),
                io.Float.Input(
                    "outside",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="The guidance outside the mask. 1 is none, as in the inversion.",
                ),
                io.Boolean.Input(
                    "keep_photo",
                    default=False,
                    tooltip="Outside the mask the image stays the chain's photo, at every step "
                    "and at the end. Needs the chain, and its size.",
                ),
                *word_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit is to happen (1), of any size; soft edges count.",
                ),
                RivalChain.Input(
                    "chain", optional=True, tooltip="The photo: for words, and to keep it."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder, to find the words."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with a guidance for every pixel."),
                io.Mask.Output(
                    display_name="mask", tooltip="The mask in use; look at it with Preview Mask."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        outside,
        keep_photo,
        prompt,
        words,
        threshold,
        blur,
        resolution,
        mask=None,
        chain=None,
        clip=None,
    ) -> io.NodeOutput:
        with named(NODE):
            cls.check(model, mask, chain)
            notices, names = [], split(words)
            if names:
                words_are_apart(names, model)
                positions = find_words(clip, prompt, names)
                if not host.same_encoding(clip, prompt, chain.positive):
                    notices = notify(NODE, ["the prompt is not the text that the chain was "
                                            "inverted with, so the words may be misplaced"])
                maps = attention_maps(model, chain, positions)
                found = enlarged(attention_mask(maps, chain.size, resolution, threshold, blur))
                mask = found if mask is None else found * resize_mask(mask, found[None])[:, 0]
        guided = blend_guidance(model, Blend(mask, outside))
        if keep_photo:
            guided = keep_outside(guided, Keep(chain, mask))
            notices = [*notices, *notify(NODE, kept_where_pulled(guided))]
        return output(guided, mask, text=notices)

    @classmethod
    def check(cls, model, mask, chain) -> None:
        if chain is not None:
            checks.same_model(chain, model)
        if mask is not None and not (
            mask.ndim == 3 and mask.numel() and torch.isfinite(mask).all()
        ):
            raise RivalError(
                f"the mask has the shape {list(mask.shape)}, or holds NaN: give masks [count, "
                "height, width]"
            )




class MapRecorder:
    """Cross-attention as the host computes it, which keeps how much the words are attended to."""

    def __init__(self, positions: list[int]):
        self.positions = positions
        self.maps: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        self.maps.append(attention_to(q, k, extra_options["n_heads"], self.positions).cpu())
        return host.attention(q, k, v, extra_options)


def attention_maps(model, chain: Chain, positions: list[int]) -> list[Tensor]:
    """What the chain's latents attend to, [1, L] for every layer and probe."""
    last = len(chain.sigmas) - 1
    steps = torch.linspace(1, last, min(PROBES, last)).round().long().flip(0)
    recorder = MapRecorder(positions)
    layers = {(*block, depth): recorder for block, depth, _ in chain.model.layers}
    host.probe(model, chain.latents[steps], chain.sigmas[steps], chain.positive, layers)
    return recorder.maps


def find_words(clip, prompt: str, names: list[str]) -> list[int]:
    text, positions = host.token_ids(clip, prompt), []
    for word in names:
        found = word_positions(text, [host.word_ids(clip, word)])
        if not found:
            raise RivalError(f"the prompt {prompt!r} does not hold {word!r}: name its own words")
        positions += found
    return positions


def enlarged(mask: Tensor) -> Tensor:
    """A mask of the latent's size [1, H, W] at the image's, for other nodes and to look at."""
    return resize_mask(mask, mask.new_empty(1, 1, *(PIXELS * n for n in mask.shape[1:])))[:, 0]
