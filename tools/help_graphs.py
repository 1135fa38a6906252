"""What the help pages' pictures add to a template's graph, in API format; each leaves a preview."""

from __future__ import annotations

SIZE = {"width": 128, "height": 128, "batch_size": 1}  # of the demo model's pictures


def custom_sampling(prompt: dict) -> dict:
    """SamplerCustomAdvanced beside RIVAL KSampler, on the same inputs."""
    given, decode = inputs_of(prompt, "RivalKSampler"), inputs_of(prompt, "VAEDecode")
    chain, seed, start = given["chain"], given["seed"], given["start"]
    guider = {name: given[name] for name in ("model", "positive", "negative", "cfg")}
    more = {
        "noise": ("RivalNoise", {"chain": chain, "seed": seed, "start": start}),
        "sigmas": ("RivalSigmas", {"chain": chain, "end_at_zero": False}),
        "guider": ("CFGGuider", guider),
        "select": ("KSamplerSelect", {"sampler_name": "euler"}),
        "empty": ("EmptyLatentImage", SIZE),
        "custom": ("SamplerCustomAdvanced", {
            "noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["select", 0],
            "sigmas": ["sigmas", 0], "latent_image": ["empty", 0]}),
        "decode": ("VAEDecode", {**decode, "samples": ["custom", 0]}),
        "preview": ("PreviewImage", {"images": ["decode", 0]}),
    }
    return {**prompt, **nodes(more)}


def through_vae(prompt: dict) -> dict:
    """The photo encoded and decoded, beside all else: as good as any inversion can be."""
    latent = inputs_of(prompt, "RivalInvert")["latent"]
    more = {
        "decode": ("VAEDecode", {**inputs_of(prompt, "VAEDecode"), "samples": latent}),
        "preview": ("PreviewImage", {"images": ["decode", 0]}),
    }
    return {**prompt, **nodes(more)}


def reported(prompt: dict) -> dict:
    """RIVAL Chain Report on the chain."""
    chain = inputs_of(prompt, "RivalReconstruct")["chain"]
    given = {"chain": chain, "vae": inputs_of(prompt, "VAEDecode")["vae"]}
    return {**prompt, **nodes({"report": ("RivalChainReport", given)})}


def chosen(prompt: dict) -> dict:
    """RIVAL Choose on what is decoded, beside the photo."""
    decode = next(i for i, node in prompt.items() if node["class_type"] == "VAEDecode")
    given = {"images": [decode, 0], "photo": inputs_of(prompt, "VAEEncode")["pixels"],
             "chosen": "best 2", "rank_by": "palette"}
    return {**prompt, **nodes({"choose": ("RivalChoose", given)})}


def pulled(prompt: dict) -> dict:
    """RIVAL Pull in the place of all else that RIVAL KSampler's model has; `late` is a second."""
    chain = inputs_of(prompt, "RivalKSampler")["chain"]
    first = {"strength": 0.9, "start": 0.0, "end": 0.25, "fade": "none", "keep_similar": 0.0}
    late = {**first, "strength": 1.0, "start": 0.6, "end": 1.0}
    model = inputs_of(prompt, "RivalInvert")["model"]
    more = nodes({
        "pull": ("RivalPull", {"model": model, "chain": chain, **first}),
        "late": ("RivalPull", {"model": ["pull", 0], "chain": chain, **late}),
    })
    more["late"]["_meta"] = {"title": "late pull"}
    inputs_of(prompt, "RivalKSampler")["model"] = ["pull", 0]
    return {**prompt, **more}


def plain_sampling(prompt: dict) -> dict:
    """Core's KSampler beside RIVAL KSampler, on the same model, prompts and seed."""
    given, decode = inputs_of(prompt, "RivalKSampler"), inputs_of(prompt, "VAEDecode")
    shared = {name: given[name] for name in ("model", "positive", "negative", "seed", "cfg")}
    usual = {"steps": 20, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    more = {
        "empty": ("EmptyLatentImage", SIZE),
        "plain": ("KSampler", {**shared, **usual, "latent_image": ["empty", 0]}),
        "decode": ("VAEDecode", {**decode, "samples": ["plain", 0]}),
        "preview": ("PreviewImage", {"images": ["decode", 0]}),
    }
    return {**prompt, **nodes(more)}


def inputs_of(prompt: dict, kind: str) -> dict:
    """Those of the first node of a type."""
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == kind)


def nodes(described: dict[str, tuple[str, dict]]) -> dict:
    """In API format, from {id: (type, inputs)}."""
    return {i: {"class_type": kind, "inputs": inputs} for i, (kind, inputs) in described.items()}
