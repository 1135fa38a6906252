"""RIVAL KSampler: sampling along a photo's chain."""

from __future__ import annotations

from comfy_api.latest import io

from ..rival_core.errors import RivalError
from ..rival_core.inversion.schedule import percent_done
from ..rival_core.sampling.partial_noise import DrawnNoise, check_eta
from . import checks, host
from .notices import other_guidance, other_walk
from .schema import advanced, named, notify, output, schema
from .start import (
    chain_input,
    has_picture,
    inpainting,
    is_photo,
    picture,
    seed_input,
    sigmas_from,
    start_input,
    start_noise,
    target,
)
from .steering.run import exemplars_of, is_pulled
from .values import checked

NODE = "RIVAL KSampler"


def eta_inputs() -> list[io.Input]:
    tips = {
        "eta": "Fresh noise at every step of the window: 0 is none, 1 is ancestral sampling. With "
        "start `inverted`, raise it a little and the batch size, and pick the edit that worked. "
        "euler only.",
        "eta_start": "Where in the schedule (0 = pure noise, 1 = finished) the fresh noise begins.",
        "eta_end": "Where the fresh noise ends.",
    }
    defaults = {"eta": 0.0, "eta_start": 0.0, "eta_end": 1.0}
    return [
        advanced(
            io.Float.Input(
                name, default=defaults[name], min=0.0, max=1.0, step=0.01, tooltip=tooltip
            )
        )
        for name, tooltip in tips.items()
    ]


def eta_has_its_sampler(eta: float, sampler_name: str) -> None:
    if eta > 0 and sampler_name != "euler":
        raise RivalError(
            f"eta is {eta} and sampler_name {sampler_name}: choose euler, or set eta to 0"
        )


@checked(check_eta, eta_has_its_sampler)
class RivalKSampler(io.ComfyNode):
    """Generation aligned with the inversion chain (RIVAL section 3.1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["variation", "image variation", "similar", "photo", "img2img", "img to img",
             "image to image", "inpaint", "aligned sampler", "reference sampler"],
            node_id="RivalKSampler",
            display_name=NODE,
            description=(
                "Samples along a photo's chain: starts at its inverted noise, shuffled with the "
                "seed, and walks the chain's own noise levels. Give it the model from RIVAL Patch "
                "Model. Costs what KSampler costs, and one row a step for the photo."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model from RIVAL Patch Model."),
                chain_input(),
                io.Conditioning.Input("positive", tooltip="What the new image shows."),
                io.Conditioning.Input("negative", tooltip="What it does not show."),
                seed_input(),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance towards the prompt: 5 for variations, 7 to follow another "
                    "prompt. 1 skips the negative and halves the cost.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(host.SAMPLERS),
                    default="euler",
                    tooltip="euler is the paper's DDIM. Samplers that add noise end at noise "
                    "level 0. chain: down as RIVAL Invert's solver went up (obelm, bdia, edict, "
                    "edit_friendly: exact from start inverted); of other solvers that is euler.",
                ),
                start_input(),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Variations at once; the photo costs one row a step however many.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, only this last part of the chain's steps is walked: the "
                    "photo, or the picture in latent, stays, under the photo's shuffled noise at "
                    "that level. 0.6 keeps the layout.",
                ),
                *eta_inputs(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="From Empty Latent Image: another size or aspect than the photo's. "
                    "From VAE Encode, with denoise below 1: image-to-image, where this picture "
                    "is what stays. From Set Latent Noise Mask: inpainting, of the photo itself "
                    "or of another image, which stays as it is outside the mask.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The variations.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        chain,
        positive,
        negative,
        seed,
        cfg,
        sampler_name,
        start,
        batch_size,
        denoise,
        eta,
        eta_start,
        eta_end,
        latent=None,
    ) -> io.NodeOutput:
        with named(NODE):
            checks.same_model(chain, model)
            latent = None if latent is None else host.as_its_own(model, latent)
            size, draws = target(latent, chain, batch_size)
            hole = inpainting(model, chain, latent, seed, draws)
            draws_noise = eta > 0 or sampler_name not in host.NOISELESS
            # Like core's own inpainting, which this then is but for the hole's start.
            other = hole is not None and not hole.is_photo
            sigmas = sigmas_from(chain, denoise, end_at_zero=draws_noise or other)
            top = float(sigmas[0])
            checks.same_scaling(chain, host.scaling_of(model), top)
            is_own = False
            if hole is None:
                shown = picture(model, chain, latent, top)
                is_own = start == "inverted" and (shown is None or is_photo(shown, chain))
                noise = start_noise(
                    chain, seed, start, size, draws, top, exemplars_of(model), shown
                )
            else:
                noise = hole.start(top, draws, seed, start) / chain.scaling.noise_scale(top)
            sampler = cls.sampler(sampler_name, chain, is_own, hole)
            if eta > 0:
                fresh = DrawnNoise(seed, draws, tuple(noise.shape[1:]))
                sampler = cls.partial_noise(model, fresh, eta, eta_start, eta_end)
        unused = hole is None and has_picture(latent) and top >= chain.top
        walks_back = is_own and sampler_name == host.CHAIN
        notices = cls.notices(model, chain, positive, hole, unused, walks_back)
        if is_own and not walks_back:
            notices += other_walk(chain, sampler_name)
        notices = notify(NODE, notices)
        scale = chain.scaling.end_scale(float(sigmas[-1]))
        samples = host.sample(
            model, noise, cfg, sampler, sigmas, scale, positive, negative, seed, hole
        )
        with named(NODE):
            notices += notify(NODE, checks.finite_images(samples))
        return output(cls.result(chain.as_photo(samples), latent, draws), text=notices)

    @classmethod
    def result(cls, samples, latent, draws) -> dict:
        """The LATENT, with what the given one says of its images."""
        latent, result = latent or {}, {"samples": samples}
        if "noise_mask" in latent:
            result["noise_mask"] = latent["noise_mask"]
        if "batch_index" in latent:
            result["batch_index"] = draws
        return result

    @classmethod
    def sampler(cls, name, chain, is_own, hole):
        """is_own: whether the start is the chain's own latent at its level."""
        if name != host.CHAIN:
            return host.sampler(name)
        if hole is not None:
            raise RivalError("sampler_name is chain and the latent has a mask: choose euler")
        scheme = chain.solver.scheme
        if scheme is not None and scheme.is_bound and not is_own:
            raise RivalError(
                f"sampler_name is chain, and the noise maps of {chain.solver.name} belong to the "
                "photo's own latents: set start to inverted and give no picture, or choose euler"
            )
        return host.chain_sampler(chain, is_own)

    @classmethod
    def partial_noise(cls, model, fresh, eta, start, end):
        """The sampler that draws fresh noise inside the window of the schedule."""
        timesteps = host.timesteps_of(model)

        def stochastic(sigma: float) -> bool:
            return start <= percent_done(timesteps, sigma) < end

        return host.partial_noise_sampler(fresh, stochastic, eta, host.scaling_of(model))

    @classmethod
    def notices(cls, model, chain, positive, hole, unused_picture, walks_back) -> list[str]:
        """walks_back: whether the way back along the chain is what holds the photo."""
        exemplars, notices = exemplars_of(model), checks.same_weights(chain, model)
        notices += other_guidance(chain, positive)
        if not exemplars and not is_pulled(model) and not walks_back:
            notices += ["the model has no RIVAL Patch Model, so nothing of the photo is injected"]
        elif exemplars and all(e.chain is not chain for e in exemplars):
            notices += ["the model was patched with another chain than the one it starts from"]
        if hole is not None and not hole.mask.any():
            notices += ["the latent's noise_mask is empty, so nothing of it changes"]
        if unused_picture:
            notices += ["of the latent only the size is used where all steps are walked: set "
                        "denoise to 0.6 or so to start from its picture"]
        return notices
