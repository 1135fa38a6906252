"""The graphs in which runs are interrupted and memory ends."""

from __future__ import annotations

from .bypassing import node

STEPS = 5
SOLVERS = ("ddim", "fixed_point", "anderson", "empirical", "uni_inv", "obelm", "bdia", "edict",
           "midpoint", "edit_friendly", "fireflow")  # on an eps model
WIDGETS = {
    "RivalInvert": {"steps": STEPS, "schedule": "rival", "solver": "ddim", "iterations": 2,
                    "tolerance": 1e-4, "cfg": 1.0, "anderson_window": 1, "anderson_mixing": 1.0},
    "RivalPatchModel": {"inject_start": 0.0, "replace_end": 0.4, "inject_end": 1.0,
                        "normalize_end": 0.4, "strength": 1.0, "layers": "all",
                        "features": "live"},
    "RivalKSampler": {"seed": 1, "cfg": 5.0, "sampler_name": "euler", "start": "shuffle",
                      "batch_size": 1, "denoise": 1.0, "eta": 0.0, "eta_start": 0.0,
                      "eta_end": 1.0},
    "RivalBlendedGuidance": {"outside": 1.0, "keep_photo": False, "prompt": "a red circle",
                             "words": "circle", "threshold": 0.3, "blur": 1.0,
                             "resolution": "auto"},
    "KSampler": {"seed": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal",
                 "steps": STEPS, "denoise": 1.0},
}


def made(class_type: str, **inputs) -> dict:
    """A node with its usual widgets; links to nodes' first outputs are their names."""
    return node(class_type, **WIDGETS.get(class_type, {}), **{
        key: value if isinstance(value, list) else [value, 0] for key, value in inputs.items()})


def changed(given: dict, **widgets) -> dict:
    return {**given, "inputs": {**given["inputs"], **widgets}}


def exemplar(**invert) -> dict:
    """The loaders, and a photo's chain."""
    chain = made("RivalInvert", model="model", latent="photo", positive="caption")
    return {
        "model": node("CampaignModel", family="sd15"),
        "photo": node("CampaignPhoto", content="photo", seed=3, family="sd15"),
        "caption": node("CampaignPrompt", family="sd15", seed=0),
        "positive": node("CampaignPrompt", family="sd15", seed=1),
        "negative": node("CampaignPrompt", family="sd15", seed=2),
        "size": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "vae": node("CampaignVae"), "clip": node("CampaignClip", family="sd15"),
        "chain": changed(chain, **invert),
    }


def kept(latent: str | list) -> dict:
    return {"keep": made("CampaignKeep", latent=latent)}


def inversion(solver: str, **invert) -> dict:
    return {**exemplar(solver=solver, **invert), **kept(["chain", 1])}


def variation(sampler: str = "RivalKSampler", features: str = "live", **invert) -> dict:
    inputs = {"chain": "chain"} if sampler == "RivalKSampler" else {"latent_image": "size"}
    return {
        **exemplar(**invert),
        "patch": changed(made("RivalPatchModel", model="model", chain="chain"),
                         features=features),
        "sample": made(sampler, model="patch", positive="positive", negative="negative",
                       **inputs),
        **kept("sample"),
    }


def custom() -> dict:
    """SamplerCustomAdvanced, beside a chain with a negative."""
    graph = variation()
    graph["chain"]["inputs"]["negative"] = ["negative", 0]
    guider = made("CFGGuider", model="patch", positive="positive", negative="negative")
    return {
        **graph, "guider": changed(guider, cfg=5.0),
        "noise": changed(made("RivalNoise", chain="chain"), seed=1, start="shuffle"),
        "sigmas": changed(made("RivalSigmas", chain="chain"), end_at_zero=False),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sample": made("SamplerCustomAdvanced", noise="noise", guider="guider", sampler="euler",
                       sigmas="sigmas", latent_image="size"),
    }


def words() -> dict:
    """Blended Guidance, which asks the model where the words are."""
    graph = variation()
    graph["guided"] = made("RivalBlendedGuidance", model="patch", chain="chain", clip="clip")
    graph["sample"]["inputs"]["model"] = ["guided", 0]
    return graph


def walk_down(solver: str) -> dict:
    """An edit: from the photo's own noise, as it was inverted."""
    graph = variation(solver=solver)
    graph["sample"]["inputs"] |= {"sampler_name": "chain", "start": "inverted"}
    return graph


def reconstruction() -> dict:
    back = made("RivalReconstruct", model="model", chain="chain", vae="vae")
    return {**exemplar(), "back": back, **kept("back")}


def report() -> dict:
    return {**inversion("ddim"), "report": made("RivalChainReport", chain="chain", vae="vae")}


def saving() -> dict:
    save = changed(made("RivalSaveChain", chain="chain", vae="vae"), filename_prefix="scene/chain")
    return {**inversion("ddim"), "save": save}


SCENES = {
    **{f"Invert {solver}": lambda solver=solver: inversion(solver) for solver in SOLVERS},
    "Invert cached": lambda: inversion("fixed_point", features="cached"),
    "Patch, KSampler": lambda: variation("KSampler"),
    "Patch, RIVAL KSampler": variation,
    **{f"chain {solver}": lambda solver=solver: walk_down(solver)
       for solver in ("obelm", "edict", "edit_friendly")},
    "Patch cached": lambda: variation(features="cached"),
    "Patch int8": lambda: variation(features="cached_int8"),
    "handed over": lambda: variation(features="cached", solver="anderson"),
    "SamplerCustomAdvanced": custom, "Blended Guidance": words, "Reconstruct": reconstruction,
    "Chain Report": report, "Save Chain": saving,
}
