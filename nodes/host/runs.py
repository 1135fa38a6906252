"""Running a MODEL: inversion, sampling, and a look at what its layers do."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rival_core.chain.chain import Chain
from ...rival_core.inversion import fixed_point
from ...rival_core.inversion.fixed_point import Solver
from ...rival_core.inversion.scaling import Scaling
from ...rival_core.inversion.scheme import Inversion
from ...rival_core.sampling.chain_walk import sample_chain
from ...rival_core.sampling.inpainting import Inpainting
from ...rival_core.sampling.partial_noise import sample_euler_partial
from .apart import explained, kept_out, set_apart
from .hooks import with_hooks
from .loras import follow_sigma
from .models import from_model_space, scaling_of

SCHEDULERS = comfy.samplers.SCHEDULER_NAMES
CHAIN = "chain"  # the sampler of our own that walks down as a chain's solver walked up
SAMPLERS = (*comfy.samplers.SAMPLER_NAMES, CHAIN)
# Samplers that draw no noise can stop at the chain's terminal sigma; all others must reach 0.
NOISELESS = {
    *("euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpm_fast"),
    *("dpm_adaptive", "dpmpp_2m", "dpmpp_2m_cfg_pp", "ipndm", "ipndm_v", "deis", "res_multistep"),
    *("res_multistep_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "ddim"),
    *("uni_pc", "uni_pc_bh2", CHAIN),
}


def stop_if_interrupted() -> None:
    """Raises what ends a run, if the user asked for it; long work asks between its parts."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class InversionSampler(comfy.samplers.Sampler):
    """Runs the inversion where ComfyUI runs a sampler: model loaded, conditioning encoded."""

    def __init__(self, scaling: Scaling, solver: Solver, watcher: Any = None):
        self.scaling, self.solver = scaling, solver
        self.watcher = watcher
        self.result: Inversion | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        calls = self.solver.most_evaluations
        follow = follow_sigma(model_wrap, sigmas)
        if self.watcher is not None:
            options = extra_args["model_options"]
            options = self.watcher.begin(model_wrap.conds, latent_image, options)
            extra_args = {**extra_args, "model_options": options}

        def model(x, sigma):
            stop_if_interrupted()
            follow(float(sigma[0]))
            return model_wrap(x, sigma, **extra_args)

        def report(state):
            done = state["i"] * calls + state["iteration"]
            callback(done, state["denoised"], state["x"], (len(sigmas) - 1) * calls)

        inverted = fixed_point.invert(
            model, latent_image.float(), sigmas.flip(0), self.scaling, self.solver, report,
            solved=getattr(self.watcher, "solved", None),
        )  # fmt: skip
        self.result = inverted.on(comfy.model_management.intermediate_device())
        return inverted.latents[-1]


class RescaledSampler(comfy.samplers.Sampler):
    """Another sampler, its result divided by `scale` before it leaves the model's latent space."""

    def __init__(self, sampler: comfy.samplers.Sampler, scale: float):
        self.sampler, self.scale = sampler, scale

    def sample(self, *args, **kwargs):
        return self.sampler.sample(*args, **kwargs) / self.scale


class Overlay:
    """An object with some of its attributes replaced, for those who are given the overlay only."""

    def __init__(self, under: Any, **attributes: Any):
        self.under = under
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.under, name)

    def __call__(self, *args, **kwargs):
        return self.under(*args, **kwargs)


class InpaintingSampler(comfy.samplers.Sampler):
    """Another sampler on an image with a hole, which takes what is known from the inpainting.

    ComfyUI's own inpainting does the rest, and with it whatever changes the mask on the way.
    """

    def __init__(self, sampler: comfy.samplers.Sampler, inpainting: Inpainting):
        self.sampler, self.inpainting = sampler, inpainting

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None,
               denoise_mask=None, disable_pbar=False):
        scaling, sigma = self.inpainting.chain.scaling, float(sigmas[0])
        # The host adds the image to the noise; the start that was asked for has it already.
        noise = noise - latent_image * (scaling.clean_share(sigma) / scaling.noise_scale(sigma))

        def known(x, sigma, **_):
            return self.inpainting.known(float(sigma[0])).to(x)

        base = Overlay(model_wrap.inner_model, scale_latent_inpaint=known)
        samples = self.sampler.sample(
            Overlay(model_wrap, inner_model=base),
            *(sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar),
        )
        return torch.where(denoise_mask > 0, samples, latent_image)


class ProbeSampler(comfy.samplers.Sampler):
    """Shows the model given latents, each at its sigma, for the sake of what its hooks record."""

    def __init__(self, latents: Tensor, attn2_replace: dict):
        self.latents, self.attn2_replace = latents, attn2_replace

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        options = with_hooks(extra_args["model_options"], attn2_replace=self.attn2_replace)
        for i, (x, sigma) in enumerate(zip(self.latents.split(1), sigmas)):
            stop_if_interrupted()
            x = x.to(noise)
            denoised = model_wrap(x, sigma[None], **{**extra_args, "model_options": options})
            callback(i, denoised, x, len(sigmas))
        return latent_image


def invert(
    model: ModelPatcher,
    latent: Tensor,
    positive: Any,
    negative: Any,
    cfg: float,
    sigmas: Tensor,
    solver: Solver,
    watcher: Any = None,
) -> tuple[Inversion, Tensor]:
    """The inversion of one image, and its end as the samples of a LATENT.

    sigmas: [S + 1], falling. watcher: `begin` gives the options of every model call, `solved` is
    told of every step (see Handover). Cost: up to S * solver.most_evaluations model calls, of
    twice the rows when cfg is not 1.
    """
    guider = comfy.samplers.CFGGuider(set_apart(model, cfg))
    guider.inner_set_conds({"positive": positive, **({"negative": negative} if negative else {})})
    guider.set_cfg(cfg)
    sampler = InversionSampler(scaling_of(model), solver, watcher)
    steps = (len(sigmas) - 1) * solver.most_evaluations
    callback = latent_preview.prepare_callback(model, steps)
    start = torch.zeros_like(latent)
    with explained(kept_out(model.model_options, model.wrappers)):
        end = guider.sample(start, latent, sampler, sigmas, callback=callback, seed=Chain.seed)
    return sampler.result, end.to(comfy.model_management.intermediate_device())


def probe(
    model: ModelPatcher, latents: Tensor, sigmas: Tensor, positive: Any, attn2_replace: dict
) -> None:
    """One unguided model call for each latent [K, C, H, W], with cross-attention replaced."""
    guider = comfy.samplers.CFGGuider(set_apart(model))
    guider.inner_set_conds({"positive": positive})
    sampler, empty = ProbeSampler(latents, attn2_replace), torch.zeros_like(latents[:1])
    callback = latent_preview.prepare_callback(model, len(sigmas))
    with explained(kept_out(model.model_options, model.wrappers)):
        guider.sample(empty, empty, sampler, sigmas, callback=callback, seed=Chain.seed)


def sampler(name: str) -> comfy.samplers.Sampler:
    return comfy.samplers.sampler_object(name)


def chain_sampler(chain: Chain, is_own: bool) -> comfy.samplers.Sampler:
    """The walk down that belongs to the chain's walk up (rival_core.sampling.chain_walk).

    is_own: whether it starts from the chain's own latent.
    """
    if chain.solver.scheme is None:
        return sampler("euler")

    def function(model, x, sigmas, extra_args, callback, disable):
        return sample_chain(model, x, sigmas, chain, is_own, callback, **extra_args)

    return comfy.samplers.KSAMPLER(function)


def partial_noise_sampler(
    noise_at: Any, stochastic: Any, eta: float, scaling: Scaling
) -> comfy.samplers.Sampler:
    """Euler that draws fresh noise at a part of the schedule (rival_core.sampling)."""

    def function(model, x, sigmas, extra_args, callback, disable):
        return sample_euler_partial(
            model, x, sigmas, noise_at, stochastic, eta, callback, scaling, **extra_args
        )

    return comfy.samplers.KSAMPLER(function)


def sample(
    model: ModelPatcher,
    noise: Tensor,
    cfg: float,
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    scale: float,
    positive: Any,
    negative: Any,
    seed: int,
    inpainting: Inpainting | None = None,
) -> Tensor:
    """ComfyUI's own sampling from `noise` on an empty latent; the result is divided by `scale`.

    With an inpainting its image is what `noise` is on, and all of it stays where its mask is 0.
    """
    sampler, image, mask = RescaledSampler(sampler, scale), torch.zeros_like(noise), None
    if inpainting is not None:
        sampler = InpaintingSampler(sampler, inpainting)
        image, mask = from_model_space(model, inpainting.image), inpainting.mask
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        sampler,
        sigmas,
        positive,
        negative,
        image,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )


def unit_noise(samples: Tensor, seed: int, draws: list[int]) -> Tensor:
    """[B, C, H, W]: the noise that ComfyUI itself would draw, item i being draws[i]."""
    return comfy.sample.prepare_noise(samples, seed, draws)


def latent_mask(mask: Tensor, samples: Tensor) -> Tensor:
    """[B, 1, H, W] within 0 and 1: a noise_mask as ComfyUI lays it on the samples.

    On those with a time of 1, [B, 1, 1, H, W], image by image.
    """
    shape = (*samples.shape[:2], *samples.shape[-2:])
    laid = comfy.sampler_helpers.prepare_mask(mask.float(), shape, samples.device)
    return laid[:, :1].clamp(0, 1).view(len(laid), 1, *samples.shape[2:])
