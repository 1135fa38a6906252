"""The ways to edit a photo that benchmarks/edits.py compares, set as their templates and pages are.

But for two things: the guidance suits the demo's models, and the steps are the same wherever a
method does not ask for another number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CFG = 2.5  # usual for the demo's models; their colours run out of their range above 3
STEPS = 20


@dataclass(frozen=True)
class Models:
    """What a checkpoint's loader gives, and how a prompt is made of it."""

    model: Any
    clip: Any
    vae: Any

    def prompt(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


@dataclass(frozen=True)
class Task:
    """One photo (a LATENT), what it shows, and what it shall show."""

    photo: dict
    source: str
    target: str
    words: str  # of the source's, which the change is about


Edit = Callable[[Models, Task, Any], dict]  # with the chain, if there is one; a LATENT


@dataclass(frozen=True)
class Method:
    """inversion: RIVAL Invert's widgets that are not the defaults; None: nothing is inverted."""

    name: str
    edit: Edit
    inversion: Mapping[str, Any] | None = None
    captioned: bool = True  # whether it is inverted with the photo's caption, or an empty prompt

    def invert(self, models: Models, task: Task):
        """The chain, or None."""
        if self.inversion is None:
            return None
        from comfyui_rival.nodes import RivalInvert

        caption = models.prompt(task.source if self.captioned else "")
        given = {"negative": models.prompt("")} if self.inversion.get("cfg", 1.0) != 1.0 else {}
        return RivalInvert.execute(models.model, task.photo, caption,
                                   **{**INVERSION, **given, **self.inversion}).args[0]


INVERSION = {"steps": STEPS, "schedule": "rival", "iterations": 10, "tolerance": 1e-4, "cfg": 1.0,
             "anderson_window": 1, "anderson_mixing": 1.0}


# --- the ways down --------------------------------------------------------------------------------


def sample(models: Models, task: Task, chain, cfg: float = CFG, sampler: str = "euler",
           denoise: float = 1.0, negative: str = "", model=None) -> dict:
    """RIVAL KSampler, from the photo's own noise."""
    from comfyui_rival.nodes import RivalKSampler

    return RivalKSampler.execute(
        model or models.model, chain, models.prompt(task.target), models.prompt(negative), 0, cfg,
        sampler, "inverted", 1, denoise, 0.0, 0.0, 1.0).args[0]


def plain(denoise: float = 1.0) -> Edit:
    """KSampler, without the photo, or from it (image-to-image)."""

    def edit(models: Models, task: Task, chain) -> dict:
        from nodes import common_ksampler

        latent = {"samples": task.photo["samples"] * (denoise < 1.0)}
        return common_ksampler(models.model, 0, STEPS, CFG, "euler", "normal",
                               models.prompt(task.target), models.prompt(""), latent, denoise)[0]

    return edit


def blended(beside: bool, threshold: float) -> Edit:
    """RIVAL Blended Guidance, as in *6 Edit by words*; beside: with its RIVAL Patch Model."""

    def edit(models: Models, task: Task, chain) -> dict:
        from comfyui_rival.nodes import RivalBlendedGuidance, RivalPatchModel

        model = models.model
        if beside:
            model = RivalPatchModel.execute(model, chain, 0.1, 0.4, 1.0, 0.4, 1.0, "all",
                                            "live").args[0]
        model = RivalBlendedGuidance.execute(model, 1.0, True, task.source, task.words,
                                             threshold, 1.0, "auto", None, chain,
                                             models.clip).args[0]
        return sample(models, task, chain, 3.5, model=model)

    return edit


def against_the_caption(sampler: str) -> Edit:
    """Negative-Prompt Inversion, as in *6 Edit exactly*: the caption is the negative."""

    def edit(models: Models, task: Task, chain) -> dict:
        return sample(models, task, chain, CFG, sampler, 0.8, task.source)

    return edit


def edit_friendly(models: Models, task: Task, chain) -> dict:
    """The template *6 Edit in several ways*."""
    return sample(models, task, chain, CFG, "chain", 0.64)


def pulled(early: bool = True, similar: float = 0.0) -> Edit:
    """RIVAL Pull at its defaults, and behind it one that keeps late what is similar."""

    def edit(models: Models, task: Task, chain) -> dict:
        from comfyui_rival.nodes import RivalPull

        model = models.model
        if early:
            model = RivalPull.execute(model, 0.9, 0.0, 0.25, "none", chain=chain).args[0]
        if similar:
            model = RivalPull.execute(model, 1.0, 0.6, 1.0, "none", chain=chain,
                                      keep_similar=similar).args[0]
        return sample(models, task, chain, model=model)

    return edit


def pair(path: str, steps: int, change: float) -> Edit:
    """RIVAL Edit."""

    def edit(models: Models, task: Task, chain) -> dict:
        from comfyui_rival.nodes import RivalEdit

        prompts = map(models.prompt, (task.target, task.source, ""))
        return RivalEdit.execute(models.model, task.photo, *prompts, 0, steps, "simple", CFG, 1.0,
                                 change, path, 1, 1).args[0]

    return edit


# --- the methods ----------------------------------------------------------------------------------


def solved(name: str, edit: Edit, solver: str, captioned: bool = True, **widgets) -> Method:
    return Method(f"`{solver}`, {name}", edit, {"solver": solver, **widgets}, captioned)


def by_chain(solvers: str) -> list[Method]:
    return [solved("NPI", against_the_caption("chain"), solver) for solver in solvers.split()]


COMMON = [Method("plain sampling", plain()), Method("image-to-image 0.6", plain(0.6))]
PAIRS = [Method("RIVAL Edit, `smooth`", pair("smooth", 28, 0.85)),
         Method("RIVAL Edit, `direct`", pair("direct", 12, 1.0))]
DAMPED = solved("coupling 0.9, NPI", against_the_caption("chain"), "bdia", coupling=0.9)
UNET = [
    *COMMON,
    *(solved("*6 Edit by words*", blended(True, 0.3), s)
      for s in ("ddim", "fixed_point", "anderson")),
    solved("Blended Guidance", blended(False, 0.15), "anderson"),
    *(solved("NPI", against_the_caption("euler"), s) for s in ("anderson", "uni_inv")),
    *by_chain("obelm bdia"),
    DAMPED,
    *by_chain("edict midpoint fireflow"),
    solved("template", edit_friendly, "edit_friendly", steps=30),
    solved("Pull", pulled(), "ddim"),
    solved("Pull, keep_similar", pulled(similar=0.5), "ddim"),
    solved("`uniform`, keep_similar", pulled(early=False, similar=0.5), "ddim", captioned=False,
           caption_attention="uniform"),
    *PAIRS,
]
FLOW = [
    *COMMON,
    solved("Pull", pulled(), "rf_inversion", captioned=False),
    solved("Pull, keep_similar", pulled(similar=0.7), "rf_inversion", captioned=False),
    *by_chain("fireflow midpoint edict obelm bdia"),
    DAMPED,
    *PAIRS,
]
