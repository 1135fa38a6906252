"""RIVAL Edit on miniature models, and its walk by hand."""

from __future__ import annotations

import dits
import graph
import tiny
import tiny_dits
import torch
from composing import guider_of, predict

FEW = {"steps": 4, "change": 0.75}  # three steps


class Case:
    """A MODEL, a photo of 8 x 8, and the prompts positive, source and negative."""

    def __init__(self, kind: str):
        if kind in ("eps", "v"):
            self.model = tiny.calm(tiny.build({"eps": "sd15", "v": "sd2_v"}[kind], levels=1))
            self.prompts = [tiny.conditioning(self.model, seed) for seed in (1, 2, 3)]
            self.photo = tiny.latent(2, size=8)
        else:
            family = {"flow": "flux", "flow with time": "wan"}[kind]
            self.model = dits.model_of(family)
            self.prompts = [dits.prompt(family, seed) for seed in (1, 2, 3)]
            self.photo = tiny_dits.latent(self.model, 2)
        self.samples = self.photo["samples"]

    def edit(self, **inputs) -> torch.Tensor:
        return self.whole(**inputs)["samples"]

    def whole(self, model=None, latent=None, prompts=None, **inputs) -> dict:
        model, latent = model or self.model, latent or self.photo
        return graph.edit(model, latent, *(prompts or self.prompts), **{**FEW, **inputs})


def by_hand(case, seed=0, cfgs=(5.5, 1.5), keep=1.0, average=1, prompts=None, steps=4, skipped=1):
    """The walk as published, each prediction in a run of its own of the host's guider."""
    import comfy.samplers
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.sampling.partial_noise import DrawnNoise

    model, (positive, source, negative) = case.model, prompts or case.prompts
    sampling = model.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, "simple", steps).tolist()[skipped:]
    photo = model.model.process_latent_in(case.samples)
    noise, edit = DrawnNoise(seed, [0], tuple(photo.shape[1:])), photo
    for sigma, following in zip(levels, levels[1:]):
        goals, share = [], 1 - sigma if host.is_flow(model) else 1.0
        for _ in range(average):
            n = noise(0)
            x_s = share * photo + sigma * n
            x_t = x_s + (edit - photo if keep else share * (edit - photo))
            d_t, d_s = (predict(guider_of(model, prompt, negative, cfg), x, sigma)
                        for prompt, cfg, x in ((positive, cfgs[0], x_t), (source, cfgs[1], x_s)))
            goals.append(photo + d_t - d_s)
        goal = torch.stack(goals).mean(0)
        edit = goal + keep * following / sigma * (edit - goal)
    return model.model.process_latent_out(edit)
