"""Seeded miniatures of the flow-matching transformers, from the host's own classes.

`build("flux")` is a ComfyUI MODEL in float32 on the CPU with less than four million weights, as
tiny.build is for UNets: the same family and seed give the same weights on every ComfyUI, and the
velocity for unit noise has a deviation near 1. What trained checkpoints start at zero (gates,
modulations, last layers) is random here, so that attention matters.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import NamedTuple

import seeded
import torch

WIDTH = 32  # of a text token, and of the pooled text
LLAMAS = 3  # layers of a text encoder that HiDream reads

# Training makes attention sharper, and more of a block's output, than random weights are.
GAIN = 2.0
STRONGER = re.compile(
    r"(k_norm|key_norm|norm_k|norm_added_k|ln_k|k_rms_norm(_t)?)\.(weight|scale)$"
    r"|attn\w*\.(\w*proj|to_out(\.0)?|to_add_out|w[12][vo])\.weight$"
    r"|mod(C|X|CX)\.1\.weight$")  # AuraFlow's gates, its only way to attention


class Family(NamedTuple):
    """How the host makes one of them, and what a prompt holds for it."""

    config: str  # class in comfy.supported_models
    network: dict  # what detection would find in a checkpoint
    last: str  # the last layer, which sets the prediction's scale
    prompt: tuple[str, ...] = ()  # what it holds beside its tokens, keys of _EXTRAS
    text: int = WIDTH  # of a token
    takes: str = ""  # in comfy.ldm, what names the keys of network that this host knows


def available() -> tuple[str, ...]:
    """Those of FAMILIES that this host has a class for."""
    import comfy.supported_models

    return tuple(name for name, family in _FAMILIES.items()
                 if hasattr(comfy.supported_models, family.config))


def build(family: str, seed: int = 0, **changes):
    """A fresh ModelPatcher of one of FAMILIES; AttributeError where the host has no such class.

    changes: to what detection would find.
    """
    row = _FAMILIES[family]
    return made(row._replace(network={**row.network, **changes}), seed)


def made(row: Family, seed: int = 0):
    """The same of a row of one's own."""
    import comfy.model_patcher
    import comfy.supported_models

    network = _known(row)
    config = getattr(comfy.supported_models, row.config)(network)
    config.unet_config.update(network)  # the family's own widths went before ours
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=None)
    model.eval().requires_grad_(False)
    model.diffusion_model.llm_adapter = None  # Anima's is large, and runs for prompts of ids only
    seeded.fill(model.diffusion_model, seed)
    for name, weight in model.diffusion_model.state_dict().items():
        weight.mul_(GAIN if STRONGER.search(name) else 1.0)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    seeded.normalize_output(last(patcher), velocity(patcher, prompt=prompt(row)).std().item())
    return patcher


def last(model) -> torch.nn.Module:
    """The layer that ends a model call."""
    return model.model.diffusion_model.get_submodule(_row(model).last)


def conditioning(model, seed: int = 0, tokens: int = 24) -> list:
    """A random prompt as the family's text encoder would give it: a CONDITIONING of one entry."""
    return prompt(_row(model), seed, tokens)


def prompt_of(family: str, seed: int, tokens: int, width: int | None = None) -> list:
    """The same, where there is no model yet. width: of a token, if not the family's."""
    row = _FAMILIES[family]
    return prompt(row._replace(text=width or row.text), seed, tokens)


def prompt(row: Family, seed: int = 0, tokens: int = 24) -> list:
    """The same of a row of one's own."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, row.text, generator=generator)
    return [[text, {key: _EXTRAS[key](generator, tokens) for key in row.prompt}]]


def latent(model, seed: int = 0, batch: int = 1, size: tuple[int, int] = (8, 8)) -> dict:
    """A smooth random LATENT of unit variance where the network sees it. [B,C,(1,)H,W].

    size: height and width in latent pixels. A video family's has one frame.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = model.model.latent_format
    samples = torch.zeros(batch, layout.latent_channels, *size)
    for side in (2, 4, max(size)):
        coarse = torch.randn(batch, layout.latent_channels, side, side, generator=generator)
        samples += torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    samples /= samples.std()
    if layout.latent_dimensions == 3:
        samples = samples.unsqueeze(2)
    return {"samples": model.model.process_latent_out(samples)}


def velocity(model, x: torch.Tensor | None = None, sigma: float = 0.5, prompt=None,
             seed: int = 0) -> torch.Tensor:
    """The prediction v at a noise level, through the host's sampler: (x - denoised) / sigma.

    x: what the network sees, by default unit noise of 16 x 16. The MODEL's own options hold.
    """
    import comfy.sample
    import comfy.samplers

    if x is None:
        x = noise(model, seed, size=(16, 16))
    seen = []
    comfy.sample.sample_custom(
        model, x / sigma, 1.0, comfy.samplers.ksampler("euler"), torch.tensor([sigma, 0.0]),
        prompt or conditioning(model, seed), prompt or conditioning(model, seed),
        torch.zeros_like(x), callback=lambda step, denoised, x, steps: seen.append(denoised),
        disable_pbar=True, seed=seed)
    return (x - seen[0]) / sigma


def noise(model, seed: int = 0, batch: int = 1, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """Unit noise in the shape of latent(model)."""
    shape = latent(model, batch=batch, size=size)["samples"].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _row(model) -> Family:
    """Rows of one class of the host differ in their network alone, not in their prompts."""
    name = type(model.model.model_config).__name__
    return next(row for row in _FAMILIES.values() if row.config == name)


def _known(row: Family) -> dict:
    """The row's network without what this host does not know yet."""
    if not row.takes:
        return row.network
    module, _, name = row.takes.rpartition(".")
    taken = inspect.signature(getattr(importlib.import_module(f"comfy.ldm.{module}"), name))
    return {key: value for key, value in row.network.items()
            if key in taken.parameters or key == "image_model"}


_EXTRAS = {
    "pooled_output": lambda generator, tokens: torch.randn(1, WIDTH, generator=generator),
    "guidance": lambda generator, tokens: 3.5,
    "attention_mask": lambda generator, tokens: torch.ones(1, tokens, dtype=torch.long),
    "conditioning_llama3": lambda generator, tokens: torch.randn(
        1, LLAMAS, tokens, WIDTH, generator=generator),
}

_HEADS = {"num_attention_heads": 4, "attention_head_dim": 32}
_AXES = [8, 12, 12]  # of a head of 32: time or index, y, x

_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "vec_in_dim": WIDTH, "context_in_dim": WIDTH, "hidden_size": 128, "num_heads": 4,
    "mlp_ratio": 2.0, "depth": 2, "depth_single_blocks": 2, "axes_dim": _AXES, "theta": 10000,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}
_FLUX2 = {  # the host pads its text to 512 tokens, so it is kept shallow
    **_FLUX, "image_model": "flux2", "depth": 1, "depth_single_blocks": 1, "patch_size": 1,
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "axes_dim": [8, 8, 8, 8],
    "theta": 2000, "qkv_bias": False, "ops_bias": False, "global_modulation": True,
    "mlp_silu_act": True, "txt_ids_dims": [3], "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_CHROMA = {
    **_FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 1,
}
_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 128, "n_layers": 2,
    "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 2, "cap_feat_dim": WIDTH, "qk_norm": True,
    "axes_dims": _AXES, "axes_lens": [300, 512, 512],
}
_ZIMAGE = {  # its time embedding is 256 wide
    **_LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    "ffn_dim_multiplier": 1.0, "axes_lens": [1536, 512, 512],
}
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2, **_HEADS,
    "joint_attention_dim": WIDTH, "axes_dims_rope": tuple(_AXES),
}
_SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
    "adm_in_channels": WIDTH, "num_patches": 1024, "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear",
                                "params": {"in_features": WIDTH, "out_features": 128}},
}
_WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "in_dim": 16, "out_dim": 16,
    "num_heads": 4, "ffn_dim": 256, "num_layers": 2, "patch_size": (1, 2, 2), "freq_dim": 256,
    "text_dim": WIDTH, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-6,
}
_HIDREAM = {
    "image_model": "hidream", **_HEADS, "axes_dims_rope": [16, 8, 8],
    "caption_channels": [WIDTH, WIDTH], "max_resolution": [128, 128], "in_channels": 16,
    "out_channels": 16, "patch_size": 2, "num_layers": 2, "num_single_layers": 2,
    "llama_layers": [0, 1, 2, 2], "num_routed_experts": 2, "num_activated_experts": 1,
    "text_emb_dim": WIDTH,
}
_AURA = {
    "max_seq": 1024, "cond_seq_dim": WIDTH, "n_heads": 2, "dim": 128, "global_conddim": 128,
    "n_layers": 4, "n_double_layers": 2,
}
_HUNYUAN = {
    **_FLUX, "image_model": "hunyuan_video", "patch_size": [1, 2, 2], "theta": 256,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}
_HUNYUAN_IMAGE = {
    **_HUNYUAN, "patch_size": [1, 1], "axes_dim": [16, 16], "in_channels": 64, "out_channels": 64,
    "vec_in_dim": None, "guidance_embed": False,
}
_ANIMA = {
    "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "model_channels": 128, "num_blocks": 2, "num_heads": 4, "mlp_ratio": 2.0,
    "concat_padding_mask": True, "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30,
    "use_adaln_lora": True, "adaln_lora_dim": 32, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_enable_fps_modulation": False,
}
_KREA2 = {
    "image_model": "krea2", "features": 128, "channels": 16, "patch": 2, "layers": 2, "heads": 4,
    "kvheads": 2, "multiplier": 2, "txtlayers": 2, "txtdim": WIDTH, "txtheads": 2, "txtkvheads": 2,
}
_LENS = {
    "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2, **_HEADS,
    "enc_hidden_dim": WIDTH, "axes_dims_rope": tuple(_AXES), "selected_layer_index": (0, 1),
    "multi_layer_encoder_feature": True,
}
_OMNIGEN2 = {
    "image_model": "omnigen2", "hidden_size": 128, "in_channels": 16, "patch_size": 2,
    "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2,
    "axes_dim_rope": _AXES, "axes_lens": [1024, 1664, 1664], "text_feat_dim": WIDTH,
    "timestep_scale": 1000.0,
}
_KANDINSKY5 = {
    "image_model": "kandinsky5", "model_dim": 128, "visual_embed_dim": 64, "time_dim": 64,
    "ff_dim": 256, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": tuple(_AXES), "rope_scale_factor": (1.0, 1.0, 1.0),
}
_LONGCAT = {**_FLUX, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]}
_JOYIMAGE = {
    "image_model": "joyimage", "in_channels": 16, "hidden_size": 128, "num_attention_heads": 4,
    "text_dim": WIDTH, "num_layers": 2, "rope_dim_list": _AXES, "theta": 10000,
}
_MAGE_FLOW = {
    "image_model": "mage_flow", "in_channels": 128, "num_layers": 2, **_HEADS,
    "joint_attention_dim": WIDTH, "axes_dims_rope": tuple(_AXES),
}
_IDEOGRAM4 = {
    "image_model": "ideogram4", "in_channels": 128, "num_layers": 2, **_HEADS,
    "intermediate_size": 256, "adaln_dim": 64, "llm_features_dim": WIDTH,
    "mrope_section": (6, 5, 5),
}

_FLUX_KEYS = "flux.model.FluxParams"
_HUNYUAN_KEYS = "hunyuan_video.model.HunyuanVideoParams"
_POOLED = ("pooled_output",)

_FAMILIES = {
    "flux": Family("Flux", _FLUX, "final_layer.linear", (*_POOLED, "guidance"), takes=_FLUX_KEYS),
    "schnell": Family("FluxSchnell", {**_FLUX, "guidance_embed": False}, "final_layer.linear",
                      _POOLED, takes=_FLUX_KEYS),
    "zimage": Family("ZImage", _ZIMAGE, "final_layer.linear", ("attention_mask",)),
    "lumina2": Family("Lumina2", _LUMINA, "final_layer.linear", ("attention_mask",)),
    "qwen": Family("QwenImage", _QWEN, "proj_out"),
    "sd3": Family("SD3", _SD3, "final_layer.linear", _POOLED),
    "sd35m": Family("SD3", {**_SD3, "qk_norm": "rms", "x_block_self_attn_layers": [0]},
                    "final_layer.linear", _POOLED),
    "flux2": Family("Flux2", _FLUX2, "final_layer.linear", ("guidance",), takes=_FLUX_KEYS),
    "chroma": Family("Chroma", _CHROMA, "final_layer.linear", _POOLED,
                     takes="chroma.model.ChromaParams"),
    "wan": Family("WAN21_T2V", _WAN, "head.head"),
    "hidream": Family("HiDream", _HIDREAM, "final_layer.linear",
                      (*_POOLED, "conditioning_llama3")),
    "aura": Family("AuraFlow", _AURA, "final_linear"),
    "hunyuan": Family("HunyuanVideo", _HUNYUAN, "final_layer.linear", _POOLED,
                      takes=_HUNYUAN_KEYS),
    "anima": Family("Anima", _ANIMA, "final_layer.linear"),
    "krea2": Family("Krea2", _KREA2, "last.linear", text=2 * WIDTH),
    "lens": Family("Lens", _LENS, "proj_out", ("attention_mask",), text=2 * WIDTH),
    "omnigen2": Family("Omnigen2", _OMNIGEN2, "norm_out.linear_2", ("attention_mask",)),
    "kandinsky5": Family("Kandinsky5Image", _KANDINSKY5, "out_layer.out_layer", _POOLED),
    "longcat": Family("LongCatImage", _LONGCAT, "final_layer.linear", takes=_FLUX_KEYS),
    "joyimage": Family("JoyImage", _JOYIMAGE, "proj_out"),
    "mage_flow": Family("MageFlow", _MAGE_FLOW, "proj_out"),
    "ideogram4": Family("Ideogram4", _IDEOGRAM4, "final_layer.linear"),
    "hunyuan_image": Family("HunyuanImage21", _HUNYUAN_IMAGE, "final_layer.linear",
                            takes=_HUNYUAN_KEYS),
}
FAMILIES = tuple(_FAMILIES)
