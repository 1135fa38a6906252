"""Small files of flow transformers that the host's own loaders know for what they are.

Detection asks for a head of 128, for a text of a certain width, and older hosts for Flux's own
width: these are the families that can be small all the same. Seeded as tiny_dits' are.
"""

from __future__ import annotations

from pathlib import Path

import tiny_dits
from tiny_dits import Family

_T5 = 4096  # the width of a text token, where detection does not read it from the file
_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "vec_in_dim": tiny_dits.WIDTH, "context_in_dim": tiny_dits.WIDTH, "hidden_size": 128,
    "num_heads": 1, "mlp_ratio": 4.0, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    "txt_ids_dims": [],
}  # fmt: skip
_FLUX2 = {
    **_FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
    "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000,
    "qkv_bias": False, "ops_bias": False, "global_modulation": True, "mlp_silu_act": True,
    "txt_ids_dims": [3], "default_ref_method": "index", "ref_index_scale": 10.0,
}  # fmt: skip
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "num_heads": 1, "ffn_dim": 256,
    "num_layers": 1, "text_dim": _T5, "in_dim": 16, "out_dim": 16, "patch_size": (1, 2, 2),
    "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-6,
}  # fmt: skip
_SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 1, "input_size": None,
    "adm_in_channels": tiny_dits.WIDTH, "num_patches": 32 * 32, "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {
        "in_features": tiny_dits.WIDTH, "out_features": 64}},
}  # fmt: skip
_KEYS = "flux.model.FluxParams"
_POOLED = ("pooled_output",)

FAMILIES = {
    "sd3": Family("SD3", _SD3, "final_layer.linear", _POOLED),
    "wan": Family("WAN21_T2V", _WAN, "head.head", text=_T5),
    "flux": Family("Flux", _FLUX, "final_layer.linear", (*_POOLED, "guidance"), takes=_KEYS),
    "flux2": Family("Flux2", _FLUX2, "final_layer.linear", ("guidance",), takes=_KEYS),
}
ANY_HOST = ("sd3", "wan")


def available() -> tuple[str, ...]:
    """Those that this host's detection takes at this size: the others, where it knows Flux.2."""
    return tuple(FAMILIES) if "flux2" in tiny_dits.available() else ANY_HOST


def write(path: Path, family: str, seed: int = 0) -> dict:
    """The file of one of FAMILIES; returns its tensors by name."""
    from safetensors.torch import save_file

    network = tiny_dits.made(FAMILIES[family], seed).model.diffusion_model
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return tensors


def prompt(family: str, seed: int = 0, tokens: int = 24) -> list:
    """A random prompt as its text encoder would give it: a CONDITIONING of one entry."""
    return tiny_dits.prompt(FAMILIES[family], seed, tokens)
