"""The pack's nodes as a graph would call them, with the widgets' defaults."""

from __future__ import annotations


def invert(model, latent, positive, **inputs):
    """(chain, noise LATENT) of RIVAL Invert."""
    from comfyui_rival.nodes import RivalInvert

    widgets = {"steps": 50, "schedule": "rival", "solver": "ddim", "iterations": 5,
               "tolerance": 1e-4, "cfg": 1.0, "anderson_window": 1, "anderson_mixing": 1.0}
    return RivalInvert.execute(model, latent, positive, **{**widgets, **inputs}).args


def patch(model, chain, **inputs):
    """The MODEL of RIVAL Patch Model."""
    from comfyui_rival.nodes import RivalPatchModel

    widgets = {
        "inject_start": 0.0,
        "replace_end": 0.4,
        "inject_end": 1.0,
        "normalize_end": 0.4,
        "strength": 1.0,
        "layers": "all",
        "features": "live",
    }
    return RivalPatchModel.execute(model, chain, **{**widgets, **inputs}).args[0]


def rival_sample(model, chain, positive, negative, **inputs):
    """The samples of RIVAL KSampler."""
    from comfyui_rival.nodes import RivalKSampler

    widgets = {
        "seed": 0,
        "cfg": 5.0,
        "sampler_name": "euler",
        "start": "shuffle",
        "batch_size": 1,
        "denoise": 1.0,
        "eta": 0.0,
        "eta_start": 0.0,
        "eta_end": 1.0,
    }
    output = RivalKSampler.execute(model, chain, positive, negative, **{**widgets, **inputs})
    return output.args[0]["samples"]


def core_sample(
    model, chain, positive, negative, seed=0, cfg=5.0, sampler="euler", start="shuffle", size=None
):
    """The samples of SamplerCustomAdvanced with RIVAL Noise and RIVAL Sigmas, end_at_zero off."""
    import comfy.samplers
    import torch
    from comfyui_rival.nodes import RivalNoise, RivalSigmas

    noise = RivalNoise.execute(chain, seed, start).args[0]
    sigmas = RivalSigmas.execute(chain, False).args[0]
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    empty = torch.zeros(1, chain.latents.shape[1], *(size or chain.latents.shape[2:]))
    return guider.sample(
        noise.generate_noise({"samples": empty}),
        empty,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        seed=seed,
    )


def relative(a, b) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())
