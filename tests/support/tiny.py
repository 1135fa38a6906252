"""Seeded miniature models built from the host's own classes, for tests inside one process.

`build("sd15")` is a ComfyUI MODEL (a ModelPatcher) in float32 on the CPU with four to six million
weights. The same family and seed give the same weights on every ComfyUI. The prediction for unit
noise has a standard deviation near 1, and other keys and values in self-attention change it by
tens of percent (see seeded.py).
"""

from __future__ import annotations

import math
from functools import partial

import seeded
import torch

UNET_FAMILIES = ("sd15", "sd2_eps", "sd2_v", "sdxl", "sdxl_refiner", "sd15_inpaint",
                 "sd15_lcm", "sd15_zsnr", "sdxl_edm", "sdxl_edm_v")
OTHER_FAMILIES = ("flux", "sd3")
FAMILIES = UNET_FAMILIES + OTHER_FAMILIES

POOLED = 32  # width of the pooled text embedding


def build(family: str, seed: int = 0, levels: int = 2):
    """A fresh ModelPatcher of one of FAMILIES.

    levels: 1 for a UNet of its upper half alone, with attention in an input block, the middle and
    two output blocks. It costs half as much, and is enough where a model is compared with itself.
    """
    import comfy.model_patcher

    model = _MAKERS[_base(family)](levels)
    model.eval().requires_grad_(False)
    seeded.fill(model.diffusion_model, seed)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    _normalize(patcher)
    return _with_sampling(patcher, family)


@torch.no_grad()
def calm(model, share: float = 0.15):
    """The same MODEL with less of the random blocks in its prediction, more of its own input.

    Trained models are smooth enough for DDIM inversion to lose some percent at 20 steps; random
    ones are not (it loses everything). share: the random part's deviation.
    """
    network = model.model.diffusion_model
    head, norm = network.out[2], network.out[0]
    copied = head.out_channels * (norm.num_channels // norm.num_groups)  # see seeded.copy_input
    head.weight[:, copied:] *= share / math.sqrt(1 - seeded.COPIED**2)
    head.bias *= share / math.sqrt(1 - seeded.COPIED**2)
    head.weight[:, :copied] *= math.sqrt(1 - share**2) / seeded.COPIED
    return model


def conditioning(model, seed: int = 0, tokens: int = 77) -> list:
    """Random text embeddings as a CONDITIONING: [[tokens, {"pooled_output": ...}]]."""
    generator = torch.Generator().manual_seed(seed)
    width = _context_width(model.model.model_config.unet_config)
    return [[torch.randn(1, tokens, width, generator=generator),
             {"pooled_output": torch.randn(1, POOLED, generator=generator)}]]


def latent(seed: int = 0, batch: int = 1, channels: int = 4, size: int = 16) -> dict:
    """A smooth random LATENT with structure at every scale, about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.zeros(batch, channels, size, size)
    for side in (2, 4, 8, size):
        coarse = torch.randn(batch, channels, side, side, generator=generator)
        samples += torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return {"samples": samples / samples.std()}


def _base(family: str) -> str:
    """Families that differ only in how they are sampled share one network."""
    return {"sd15_lcm": "sd15", "sd15_zsnr": "sd15", "sdxl_edm": "sdxl",
            "sdxl_edm_v": "sdxl"}.get(family, family)


def _unet_config(depth: tuple[int, ...], **changes) -> dict:
    """A level for each depth, one residual block in it, and attention where that is not zero."""
    config = {
        "image_size": 32, "use_spatial_transformer": True, "legacy": False,
        "in_channels": 4, "out_channels": 4, "model_channels": 64,
        "channel_mult": [1, 2][: len(depth)], "num_res_blocks": [1] * len(depth),
        "transformer_depth": list(depth),
        "transformer_depth_output": [d for level in depth for d in (level, level)],
        "transformer_depth_middle": depth[-1], "use_linear_in_transformer": False,
        "context_dim": 32, "adm_in_channels": None,
        "use_temporal_attention": False, "use_temporal_resblock": False,
    }
    return {**config, **changes}


def _model_config(config_class: type, unet_config: dict, **heads):
    """The host's config object, with our head sizes in place of the family's."""
    config = config_class(unet_config)
    config.unet_config.update(heads)
    config.set_inference_dtype(torch.float32, None)
    return config


def _sd15(levels: int, in_channels: int = 4):
    import comfy.supported_models

    config = _model_config(comfy.supported_models.SD15,
                           _unet_config((1, 1)[:levels], in_channels=in_channels),
                           num_heads=4, num_head_channels=-1)
    return config.get_model({}, "", device=None)  # inpainting models get their concat keys here


def _sd2(levels: int, model_type: str):
    import comfy.model_base
    import comfy.supported_models

    config = _model_config(comfy.supported_models.SD20,
                           _unet_config((1, 1)[:levels], use_linear_in_transformer=True),
                           num_heads=-1, num_head_channels=64)
    return comfy.model_base.BaseModel(config, comfy.model_base.ModelType[model_type])


def _sdxl(levels: int, config_name: str, embedded_sizes: int):
    import comfy.supported_models

    adm = POOLED + 256 * embedded_sizes
    config = _model_config(getattr(comfy.supported_models, config_name),
                           _unet_config((0, 2)[-levels:], use_linear_in_transformer=True,
                                        num_classes="sequential", adm_in_channels=adm),
                           num_heads=-1, num_head_channels=32)
    return config.get_model({}, "", device=None)


def _flux(_levels: int):
    import comfy.ldm.flux.model
    import comfy.supported_models

    unet_config = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "vec_in_dim": POOLED, "context_in_dim": 32, "hidden_size": 128, "num_heads": 4,
        "mlp_ratio": 2.0, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12],
        "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    }
    if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
        unet_config["txt_ids_dims"] = []
    return _model_config(comfy.supported_models.Flux, unet_config).get_model({}, "", device=None)


def _sd3(_levels: int):
    import comfy.supported_models

    unet_config = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": POOLED, "num_patches": 1024, "pos_embed_max_size": 32,
        "pos_embed_scaling_factor": None,
        "context_embedder_config": {"target": "torch.nn.Linear",
                                    "params": {"in_features": 32, "out_features": 128}},
    }
    return _model_config(comfy.supported_models.SD3, unet_config).get_model({}, "", device=None)


_MAKERS = {
    "sd15": _sd15,
    "sd15_inpaint": partial(_sd15, in_channels=9),
    "sd2_eps": partial(_sd2, model_type="EPS"),
    "sd2_v": partial(_sd2, model_type="V_PREDICTION"),
    "sdxl": partial(_sdxl, config_name="SDXL", embedded_sizes=6),
    "sdxl_refiner": partial(_sdxl, config_name="SDXLRefiner", embedded_sizes=5),
    "flux": _flux,
    "sd3": _sd3,
}


def _with_sampling(patcher, family: str):
    """Apply the host's own ModelSampling nodes where the family is defined by them."""
    if family not in ("sd15_lcm", "sd15_zsnr", "sdxl_edm", "sdxl_edm_v"):
        return patcher
    from comfy_extras import nodes_model_advanced as advanced

    discrete, continuous = advanced.ModelSamplingDiscrete(), advanced.ModelSamplingContinuousEDM()
    if family == "sd15_lcm":
        return discrete.patch(patcher, "lcm", False)[0]
    if family == "sd15_zsnr":
        return discrete.patch(patcher, "v_prediction", True)[0]
    if family == "sdxl_edm":
        return continuous.patch(patcher, "edm_playground_v2.5", 80.0, 0.002)[0]
    return continuous.patch(patcher, "v_prediction", 120.0, 0.002)[0]


def _normalize(patcher) -> None:
    """Give the prediction for unit noise a deviation near 1; UNets also copy their input."""
    network, wanted = patcher.model.diffusion_model, 1.0
    is_unet = hasattr(network, "out")
    if is_unet:
        seeded.copy_input(network, share=0.0)
        wanted = math.sqrt(1 - seeded.COPIED**2)
    last = network.out[2] if is_unet else network.final_layer.linear
    seeded.normalize_output(last, predict(patcher).std().item(), wanted)
    if is_unet:
        seeded.copy_input(network)


@torch.no_grad()
def predict(model, seed: int = 0, **transformer_options) -> torch.Tensor:
    """The raw network's output for seeded unit noise at timestep 500, hooks included."""
    config = model.model.model_config.unet_config
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, config["in_channels"], 16, 16, generator=generator)
    context = torch.randn(1, 77, _context_width(config), generator=generator)
    extra = {}
    if config.get("adm_in_channels") or "vec_in_dim" in config:
        width = config.get("adm_in_channels") or config["vec_in_dim"]
        extra["y"] = torch.randn(1, width, generator=generator)
    return model.model.diffusion_model(x, torch.tensor([500.0]), context=context,
                                       transformer_options=transformer_options, **extra)


def _context_width(unet_config: dict) -> int:
    embedder = unet_config.get("context_embedder_config")
    if embedder:
        return embedder["params"]["in_features"]
    return unet_config.get("context_dim") or unet_config["context_in_dim"]
