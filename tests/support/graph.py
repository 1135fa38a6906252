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


def pull(model, **inputs):
    """The MODEL of RIVAL Pull."""
    from comfyui_rival.nodes import RivalPull

    widgets = {"strength": 0.9, "start": 0.0, "end": 0.25, "fade": "none"}
    return RivalPull.execute(model, **{**widgets, **inputs}).args[0]


def edit(model, latent, positive, source, negative, **inputs) -> dict:
    """The LATENT of RIVAL Edit."""
    from comfyui_rival.nodes import RivalEdit

    widgets = {
        "seed": 0,
        "steps": 28,
        "scheduler": "simple",
        "cfg": 5.5,
        "source_cfg": 1.5,
        "change": 0.85,
        "path": "smooth",
        "average": 1,
        "batch_size": 1,
    }
    inputs = {**widgets, **inputs}
    return RivalEdit.execute(model, latent, positive, source, negative, **inputs).args[0]


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
