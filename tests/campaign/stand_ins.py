"""Nodes in place of loaders and of the end of a graph: tiny models, prompts, photos, a sink."""

from __future__ import annotations

import composing
import torch

FAMILIES = ("sd15", "sd15_inpaint", "sd15_zsnr", "sd2_v", "sdxl", "flux")
PHOTOS = ("photo", "small", "wide", "two", "zeros", "nan")
WORDS = {"a": 5, "red": 6, "circle": 7}
BEGIN, END, TOKENS = 1, 2, 77

kept: dict[str, list] = {}  # what CampaignKeep was given in the last run, by node id


@composing.remembered
def model(family: str):
    """A tiny MODEL of the campaign's own: LoRAs and interrupts may touch its weights."""
    import tiny

    return tiny.build(family)


@composing.remembered
def prompt(family: str, seed: int) -> list:
    import tiny

    return tiny.conditioning(model(family), seed)


def photo(content: str, seed: int, family: str) -> dict:
    """A LATENT: sound ones of several sizes, and three that nothing can be made of."""
    height, width = {"wide": (6, 10), "small": (4, 4)}.get(content, (8, 8))
    channels = 16 if family == "flux" else 4
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(2 if content == "two" else 1, channels, height, width,
                          generator=generator)
    return {"samples": samples * {"zeros": 0.0, "nan": float("nan")}.get(content, 1.0)}


class Clip:
    """A text encoder whose tokens are words; it encodes every text as the first prompt."""

    def __init__(self, family: str):
        self.family = family

    def tokenize(self, text: str) -> dict:
        ids = [BEGIN, *(WORDS.get(word, 9) for word in text.split()), END]
        return {"l": [[(token, 1.0) for token in ids + [END] * (TOKENS - len(ids))]]}

    def encode_from_tokens_scheduled(self, tokens) -> list:
        return prompt(self.family, 0)


class Vae:
    """Decodes to blocks of 8 x 8 pixels, and can be interrupted as the host's tiled one can."""

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = samples[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (pixels * 0.1 + 0.5).movedim(1, -1)


def half_mask(value: float) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = value
    return mask


def lora(model, strength: float):
    import loras

    return loras.with_lora(model, strength)


def hooks(strength: float):
    import loras

    return loras.hook_lora({0.0: strength, 0.5: 1.0})


def node(returns: str | None, function, **inputs):
    """A node class in ComfyUI's older form; what returns nothing is an output node."""

    hidden = {} if returns else {"unique_id": "UNIQUE_ID"}

    def execute(self, **values):
        result = function(*(values[name] for name in (*inputs, *hidden)))
        return () if returns is None else (result,)

    return type("StandIn", (), {
        "INPUT_TYPES": classmethod(lambda cls: {"required": inputs, "hidden": hidden}),
        "RETURN_TYPES": (returns,) if returns else (), "OUTPUT_NODE": returns is None,
        "FUNCTION": "execute", "CATEGORY": "campaign", "execute": execute,
    })


def keep(latent: dict, unique_id: str) -> None:
    kept.setdefault(unique_id, []).append(latent["samples"].clone())


FAMILY, SEED = (FAMILIES,), ("INT", {"default": 0, "min": 0, "max": 7})
STRENGTH = ("FLOAT", {"default": 0.5, "min": -1.0, "max": 2.0})
NODES = {
    "CampaignModel": node("MODEL", model, family=FAMILY),
    "CampaignPrompt": node("CONDITIONING", prompt, family=FAMILY, seed=SEED),
    "CampaignPhoto": node("LATENT", photo, content=(PHOTOS,), seed=SEED, family=FAMILY),
    "CampaignClip": node("CLIP", Clip, family=FAMILY),
    "CampaignVae": node("VAE", Vae),
    "CampaignMask": node("MASK", half_mask, value=("FLOAT", {"default": 1.0, "max": 1.0})),
    "CampaignLora": node("MODEL", lora, model=("MODEL",), strength=STRENGTH),
    "CampaignHooks": node("HOOKS", hooks, strength=STRENGTH),
    "CampaignKeep": node(None, keep, latent=("LATENT",)),
}
