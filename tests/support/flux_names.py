"""A Flux network's weights under ComfyUI's names and under diffusers', which are the same numbers.

Each host splits and orders some of them in its own way: diffusers keeps queries, keys and values
apart, and the last modulation's scale before its shift.
"""

from __future__ import annotations

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE = {
    "modulation.lin": "norm.linear",
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}


def transformer(model):
    """diffusers' transformer with the weights of a Flux MODEL of ComfyUI, whose mlp_ratio is 4."""
    network = model.model.diffusion_model
    p = network.params
    made = diffusers.FluxTransformer2DModel(
        in_channels=network.in_channels,
        num_layers=p.depth,
        num_single_layers=p.depth_single_blocks,
        attention_head_dim=p.hidden_size // p.num_heads,
        num_attention_heads=p.num_heads,
        joint_attention_dim=p.context_in_dim,
        pooled_projection_dim=p.vec_in_dim,
        guidance_embeds=p.guidance_embed,
        axes_dims_rope=tuple(p.axes_dim),
    )
    made.load_state_dict(renamed(network.state_dict(), p.hidden_size))
    return made.eval().requires_grad_(False)


def renamed(weights: dict, width: int) -> dict:
    """ComfyUI's weights under diffusers' names; KeyError for one that is not known."""
    found = {}
    for name, weight in weights.items():
        module, _, kind = name.replace(".scale", ".weight").rpartition(".")  # older hosts' norms
        place, names = place_of(module)
        if module.startswith("final_layer.ada"):
            weight = torch.cat(weight.chunk(2)[::-1])
        if isinstance(names, str):
            found[f"{place}{names}.{kind}"] = weight
        else:
            for part, split in zip(names, weight.tensor_split([width, 2 * width, 3 * width])):
                found[f"{place}{part}.{kind}"] = split
    return found


def place_of(module: str) -> tuple[str, str | tuple[str, ...]]:
    """Where diffusers has a module: its block, and its name or names there."""
    for blocks, others, names in (
        ("double_blocks", "transformer_blocks", DOUBLE),
        ("single_blocks", "single_transformer_blocks", SINGLE),
    ):
        if module.startswith(blocks):
            _, number, rest = module.split(".", 2)
            return f"{others}.{number}.", names[rest]
    return "", OUTSIDE[module]
