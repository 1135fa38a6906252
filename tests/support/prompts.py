"""Small prompts in the HTTP API's format. Node ids are words, so that events read well."""

from __future__ import annotations

from serving import CHECKPOINT

WIDTH, HEIGHT = 64, 48


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def exemplar(steps: int = 6, solver: str = "ddim", tolerance: float = 1e-4) -> dict:
    """A checkpoint, its prompts and an inverted photo."""
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "photo": node("LoadImage", image="example.png"),
        "small": node(
            "ImageScale",
            image=["photo", 0],
            upscale_method="area",
            width=WIDTH,
            height=HEIGHT,
            crop="center",
        ),
        "encode": node("VAEEncode", pixels=["small", 0], vae=["checkpoint", 2]),
        "empty": node("CLIPTextEncode", text="", clip=["checkpoint", 1]),
        "prompt": node("CLIPTextEncode", text="a green hill", clip=["checkpoint", 1]),
        "invert": node(
            "RivalInvert",
            model=["checkpoint", 0],
            latent=["encode", 0],
            positive=["empty", 0],
            steps=steps,
            schedule="rival",
            solver=solver,
            iterations=5,
            tolerance=tolerance,
            cfg=1.0,
            anderson_window=1,
            anderson_mixing=1.0,
        ),
    }


def images(latent: str) -> dict:
    """The nodes that show the latent which a node has as its first output."""
    return {
        "decode": node("VAEDecode", samples=[latent, 0], vae=["checkpoint", 2]),
        "images": node("PreviewImage", images=["decode", 0]),
    }


def patch(**changes) -> dict:
    values = {
        "inject_start": 0.0,
        "replace_end": 0.4,
        "inject_end": 1.0,
        "normalize_end": 0.4,
        "strength": 1.0,
        "layers": "all",
        "features": "live",
    } | changes
    return node("RivalPatchModel", model=["checkpoint", 0], chain=["invert", 0], **values)


def variation(
    steps: int = 6, seed: int = 1, batch: int = 1, model: str = "patch", **changes
) -> dict:
    """The three nodes. `model`: whose model the sampler takes."""
    sampler = {
        "seed": seed,
        "cfg": 5.0,
        "sampler_name": "euler",
        "start": "shuffle",
        "batch_size": batch,
        "denoise": 1.0,
        "eta": 0.0,
        "eta_start": 0.0,
        "eta_end": 1.0,
    } | changes
    return {
        **exemplar(steps),
        "patch": patch(),
        "sample": node(
            "RivalKSampler",
            model=[model, 0],
            chain=["invert", 0],
            positive=["prompt", 0],
            negative=["empty", 0],
            **sampler,
        ),
        **images("sample"),
    }


def core_sampler(model: str, steps: int = 6, seed: int = 1) -> dict:
    """ComfyUI's own KSampler. With the loader's model nothing of the pack runs."""
    return {
        **exemplar(steps),
        "patch": patch(),
        "size": node("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1),
        "sample": node(
            "KSampler",
            model=[model, 0],
            positive=["prompt", 0],
            negative=["empty", 0],
            latent_image=["size", 0],
            seed=seed,
            steps=steps,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        **images("sample"),
    }


def custom_sampler(steps: int = 6, seed: int = 1) -> dict:
    """SamplerCustomAdvanced with this pack's noise and sigmas."""
    return {
        **exemplar(steps),
        "patch": patch(),
        "noise": node("RivalNoise", chain=["invert", 0], seed=seed, start="shuffle"),
        "sigmas": node("RivalSigmas", chain=["invert", 0], end_at_zero=False),
        "guider": node(
            "CFGGuider", model=["patch", 0], positive=["prompt", 0], negative=["empty", 0], cfg=5.0
        ),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "size": node("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["euler", 0],
            sigmas=["sigmas", 0],
            latent_image=["size", 0],
        ),
        **images("sample"),
    }


def saving(prefix: str, steps: int = 6) -> dict:
    """A chain into a file."""
    prompt = exemplar(steps)
    inputs = {"chain": ["invert", 0], "filename_prefix": prefix, "vae": ["checkpoint", 2]}
    return {**prompt, "save": node("RivalSaveChain", **inputs)}
