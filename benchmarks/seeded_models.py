"""Full-size networks of seeded random weights: time does not depend on what they were taught."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "legacy": False,
}
NETWORKS = {
    "sd15": SHARED | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "num_heads": 8,
        "num_head_channels": -1,
        "adm_in_channels": None,
    },
    "sdxl": SHARED | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_head_channels": 64,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
    # One block of each kind, of 19 and 38: time grows with their number, memory would, too.
    "flux": {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 768,
        "context_in_dim": 4096,
        "hidden_size": 3072,
        "num_heads": 24,
        "mlp_ratio": 4.0,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
    },
    # Two of 30 layers, and one refiner of the image and of the text instead of two each.
    "zimage": {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 3840,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 30,
        "n_kv_heads": 30,
        "cap_feat_dim": 2560,
        "qk_norm": True,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0,
        "ffn_dim_multiplier": 8.0 / 3.0,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    },
}
FAMILIES = {"sd15": "SD15", "sdxl": "SDXL", "flux": "Flux", "zimage": "ZImage"}
# Of a prompt: its tokens, and the settings that say how wide each and the pooled one is.
PROMPTS = {"flux": (256, "context_in_dim", "vec_in_dim"), "lumina2": (64, "cap_feat_dim", None)}


def build(family: str, dtype: torch.dtype):
    """The MODEL of one of FAMILIES."""
    network = dict(NETWORKS[family])
    if family == "flux" and "txt_ids_dims" in FluxParams.__dataclass_fields__:
        network["txt_ids_dims"] = []  # newer hosts ask for it
    config = getattr(comfy.supported_models, FAMILIES[family])(network)
    config.set_inference_dtype(dtype, None)
    device = comfy.model_management.get_torch_device()
    base = config.get_model({}, "", device=device).to(device)
    torch.manual_seed(0)
    for weight in base.diffusion_model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(base, device, offload)


def prompt_for(model):
    """Text embeddings of the right width; what they say does not matter for time."""
    config = model.model.model_config.unet_config
    unet = (77, "context_dim", None)
    tokens, width, pooled = PROMPTS.get(config.get("image_model"), unet)
    pooled = torch.randn(1, config.get(pooled, 1280))
    return [[torch.randn(1, tokens, config[width]), {"pooled_output": pooled}]]


def random_chain(model, side: int, steps: int):
    """A chain of noise, its latents side x side."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.chain import Chain
    from comfyui_rival.rival_core.inversion.schedule import rival_sigmas

    card = host.model_card(model)
    if host.is_flow(model):
        sigmas = host.scheduler_sigmas(model, "simple", steps).flip(0)
    else:
        sigmas = rival_sigmas(host.timesteps_of(model), steps).flip(0)
    channels = host.latent_channels(model)
    spread = (1 + sigmas**2).sqrt()[:, None, None, None]
    latents = torch.randn(steps + 1, channels, side, side) * spread
    return Chain(sigmas, latents, host.scaling_of(model), card, prompt_for(model))
