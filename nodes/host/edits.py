"""Running RIVAL Edit: one MODEL, asked in turn for what the photo is and what it shall be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rival_core.editing.pair import Model, walk_pair
from ...rival_core.inversion.scaling import Scaling
from .apart import around, explained, set_alone
from .models import from_model_space, scaling_of, to_model_space
from .runs import stop_if_interrupted

TARGET, SOURCE, NEGATIVE = "positive", "source", "negative"


class PairGuider(comfy.samplers.CFGGuider):
    """Guidance away from one negative, towards one of two prompts, each with a scale of its own.

    The host lets what one prompt has (areas, controls) act on all others of a guider: the source
    and its negative are prepared apart, so that each prediction is what core's guider would make.
    """

    def __init__(self, model: ModelPatcher, conds: dict[str, Any], scales: dict[str, float]):
        super().__init__(model)
        self.inner_set_conds(conds)
        self.scales = scales
        self.towards(TARGET)

    def towards(self, name: str) -> None:
        """Which prompt the next predictions are of."""
        self.name = name
        self.set_cfg(self.scales[name])

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, denoise_mask, callback,
                     disable_pbar, seed, **shapes):
        source = {TARGET: self.conds.pop(SOURCE), NEGATIVE: [*map(dict, self.conds[NEGATIVE])]}
        photo = self.inner_model.process_latent_in(latent_image)
        self.source = comfy.samplers.process_conds(
            self.inner_model, noise, source, device, photo, denoise_mask, seed, **shapes
        )
        samples = super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask,
                                       callback, disable_pbar, seed, **shapes)  # fmt: skip
        self.conds[SOURCE] = self.source[TARGET]  # whose controls the host lets go of
        return samples

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        conds = self.source if self.name == SOURCE else self.conds
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, conds[NEGATIVE], conds[TARGET], self.cfg,
            model_options=model_options, seed=seed,
        )  # fmt: skip


class PairSampler(comfy.samplers.Sampler):
    """Runs the pair where ComfyUI runs a sampler: model loaded, conditioning encoded.

    noise(i): unit noise for step i, anew whenever it is asked.
    """

    def __init__(self, guider: PairGuider, scaling: Scaling, noise: Callable[[int], Tensor],
                 mask: Tensor | None, **how):
        self.guider, self.scaling, self.noise, self.mask = guider, scaling, noise, mask
        self.how = how

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        def model(prompt: str) -> Model:
            def predict(x: Tensor, sigma: Tensor) -> Tensor:
                stop_if_interrupted()
                self.guider.towards(prompt)
                return model_wrap(x, sigma, **extra_args)

            return predict

        def noised(step: int) -> Tensor:
            sigma = float(sigmas[step])
            fresh = self.noise(step).to(latent_image)
            return self.scaling.clean_share(sigma) * latent_image + sigma * fresh

        def report(state: dict) -> None:
            callback(state["i"], state["denoised"], state["x"], len(sigmas) - 1)

        mask = None if self.mask is None else self.mask.to(latent_image)
        return walk_pair(model(TARGET), model(SOURCE), latent_image, sigmas, noised,
                         self.scaling.clean_share, mask=mask, callback=report,
                         **self.how)  # fmt: skip


def edit(
    model: ModelPatcher,
    samples: Tensor,
    conds: dict[str, Any],
    scales: dict[str, float],
    sigmas: Tensor,
    noise: Callable[[int], Tensor],
    mask: Tensor | None,
    seed: int,
    **how,
) -> Tensor:
    """The samples [B, C, H, W] of a LATENT, edited.

    conds: the CONDITIONING of TARGET, SOURCE and NEGATIVE. scales: the guidance of the first two.
    sigmas: [S + 1], falling. mask: [1 or B, 1, H, W]. how: what else walk_pair is told.
    """
    guider = PairGuider(set_alone(model), conds, scales)
    sampler = PairSampler(guider, scaling_of(model), noise, mask, **how)
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1)
    with explained(around(model.model_options, model.wrappers)):
        edited = guider.sample(
            torch.zeros_like(samples), samples, sampler, sigmas, callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
        )  # fmt: skip
    edited = edited.to(comfy.model_management.intermediate_device())
    # What has not changed is the photo's own, which the way into the model's space would round.
    before = from_model_space(model, to_model_space(model, samples)).to(edited)
    return torch.where(edited == before, samples.to(edited), edited)
