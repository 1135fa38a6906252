"""What a network reads of a prompt: how wide, told by the layers that take it in."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.model_base
from comfy.model_patcher import ModelPatcher

from .models import is_dit, network_inside

# Where transformers take them in: the first of these that a network has.
TEXT = (
    *("txt_in.input_embedder", "txt_in", "cap_embedder.1", "context_embedder", "text_embedding.0"),
    *("caption_projection.0.linear", "cond_seq_linear", "blocks.0.cross_attn.k_proj"),
    *("time_caption_embed.caption_embedder.1", "text_embeddings.in_layer", "llm_cond_proj"),
    "condition_embedder.text_embedder.linear_1",
)
POOLED = (
    *("vector_in.in_layer", "y_embedder.mlp.0", "p_embedder.pooled_embedder.linear_1"),
    "pooled_text_embeddings.in_layer",
)
BYT5 = ("byt5_in.fc1",)


def text_width(model: ModelPatcher) -> int | None:
    """The width of the text encoding that the model reads; None if it does not say."""
    if is_dit(model):
        return width_of(model, TEXT)
    return model.model.model_config.unet_config.get("context_dim")


def pooled_width(model: ModelPatcher) -> int | None:
    """The width of the pooled text encoding beside it; None if none is read."""
    if is_dit(model):
        return width_of(model, POOLED)
    for kind, sizes in ((comfy.model_base.SDXL, 6), (comfy.model_base.SDXLRefiner, 5)):
        if isinstance(model.model, kind):
            return model.model.adm_channels - 256 * sizes  # each size is embedded in 256 numbers
    return None


def may_lack_pooled(model: ModelPatcher) -> bool:
    """Whether the host puts zeros where a prompt has no pooled encoding."""
    return isinstance(model.model, comfy.model_base.Flux)


def glyph_width(model: ModelPatcher) -> int | None:
    """The width of the encoding of quoted words that HunyuanImage reads beside the text."""
    return width_of(model, BYT5)


def llama_layers(model: ModelPatcher) -> int:
    """How many layers of a text encoder HiDream reads beside the text; 0 of other models."""
    layers = getattr(inside(model), "llama_layers", None)
    return max(layers) + 1 if layers else 0


def width_of(model: ModelPatcher, places: Iterable[str]) -> int | None:
    """What the first of these layers takes in; None if the network has none of them."""
    parts = dict(inside(model).named_modules())
    found = (getattr(parts.get(place), "in_features", None) for place in places)
    return next((width for width in found if width is not None), None)


def inside(model: ModelPatcher):
    """The network, without what another node put around it."""
    network = model.get_model_object("diffusion_model")
    return network.get_submodule(network_inside(model, network))
