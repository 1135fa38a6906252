"""Sets the variation workflow's prompt up for the demo. Pure functions on API-format prompts."""

from __future__ import annotations

from dataclasses import dataclass

from loaders import Files, loading, only
from options import SOLVER

PHOTO_NAME = "exemplar.png"
CAPTION, RECONSTRUCTION = "caption", "reconstruction"  # added to the workflow's own nodes
ONCE = {"features": "live"}  # each photo is sampled beside once: nothing to keep


@dataclass(frozen=True)
class Job:
    """A prompt ready to queue, and the ids of the nodes that matter."""

    prompt: dict
    invert: str
    sample: str
    reconstruct: str
    variations: str  # the node that saves them
    reconstruction: str


def job(prompt: dict, options, exemplar, model: Files) -> Job:
    """The variation workflow for this exemplar, and a branch that replays the chain."""
    prompt = loading(prompt, model)
    sample, invert = only(prompt, "RivalKSampler"), only(prompt, "RivalInvert")
    sampler = prompt[sample]["inputs"]
    words = prompt[sampler["positive"][0]]  # the workflow has one box; the demo may say two things
    prompt[CAPTION] = {**words, "inputs": {**words["inputs"], "text": exemplar.caption}}
    words["inputs"]["text"] = exemplar.prompt
    sampler.update(seed=options.seed, batch_size=options.variations, cfg=exemplar.cfg)
    prompt[invert]["inputs"] |= {"positive": [CAPTION, 0], "steps": options.steps, **SOLVER, **ONCE}
    prompt[only(prompt, "RivalPatchModel")]["inputs"] |= ONCE
    prompt[only(prompt, "LoadImage")]["inputs"]["image"] = PHOTO_NAME
    prompt[only(prompt, "ImageScaleToTotalPixels")]["inputs"]["megapixels"] = exemplar.megapixels
    save = only(prompt, "SaveImage")
    prompt |= reconstruction(prompt, sample, invert)
    return Job(prompt, invert, sample, RECONSTRUCTION, save, f"{RECONSTRUCTION}-image")


def reconstruction(prompt: dict, sample: str, invert: str) -> dict:
    """Nodes that walk the chain back, with the plain model and the exemplar's own prompt."""
    inverted = prompt[invert]["inputs"]
    replay = {
        **prompt[sample]["inputs"],
        "model": inverted["model"],
        "positive": inverted["positive"],
        "negative": inverted["positive"],
        "cfg": 1.0,
        "start": "inverted",
        "batch_size": 1,
    }
    decoder = prompt[only(prompt, "VAEDecode")]["inputs"]
    pixels = f"{RECONSTRUCTION}-pixels"
    image = {"images": [pixels, 0], "filename_prefix": f"rival/{RECONSTRUCTION}"}
    return {
        RECONSTRUCTION: {"class_type": "RivalKSampler", "inputs": replay},
        pixels: {
            "class_type": "VAEDecode",
            "inputs": {**decoder, "samples": [RECONSTRUCTION, 0]},
        },
        f"{RECONSTRUCTION}-image": {"class_type": "SaveImage", "inputs": image},
    }

