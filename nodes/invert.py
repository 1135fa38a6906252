"""RIVAL Invert: an image becomes its chain."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..rival_core.chain.chain import Chain
from ..rival_core.chain.features import FEATURES
from ..rival_core.chain.report import chain_notices, residual_table, summary
from ..rival_core.inversion.fixed_point import Solver
from ..rival_core.inversion.schedule import check_sigmas, rival_sigmas
from ..rival_core.inversion.schemes import check_coupling, check_family
from . import checks, host
from .notices import before_inverting
from .schema import RivalChain, advanced, named, notify, output, schema
from .solver import (
    anderson_inputs,
    guidance_has_two_sides,
    scheme_inputs,
    solver_inputs,
    uniform,
    unused,
)
from .steering.handover import Handover, solver_sees
from .values import checked

NODE = "RIVAL Invert"


@checked(guidance_has_two_sides, solver_sees, check_coupling)
class RivalInvert(io.ComfyNode):
    """Inverts an image into its diffusion chain (RIVAL section 3.1; AIDI)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["invert", "inversion", "ddim", "ddim inversion", "rf inversion", "unsampler", "photo",
             "image to noise", "exemplar"],
            node_id="RivalInvert",
            display_name=NODE,
            description=(
                "Turns a photo into its diffusion chain: every latent from the image to noise, as "
                "this model would have made it. Connect the chain to RIVAL Patch Model and RIVAL "
                "KSampler. ddim and obelm take one model call a step, anderson up to "
                "`iterations`; the chain is cached until an input changes."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that will sample, without RIVAL Patch Model: the exemplar "
                    "is inverted by the plain model. Put LoRAs before this node.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The photo, through VAE Encode. Any size; near the model's native size "
                    "works best. One image.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the photo shows: a short caption, or an empty prompt when the "
                    "new image is described by another prompt. One plain prompt; a LoRA on it "
                    "(hooks) is used.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=10000,
                    tooltip="Steps of the chain; the sampler walks the same ones. More is more "
                    "exact: 50 is the paper's for ddim, anderson does with 20.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=["rival", *host.SCHEDULERS],
                    default="rival",
                    tooltip="Which noise levels the chain visits. rival: the paper's timesteps, "
                    "for 5 to 400 steps; with transformers (Flux, Qwen-Image and the like) the "
                    "model's own, which are simple's. The others are ComfyUI's: sgm_uniform for "
                    "fewer steps, beta where the chain's noise is said to be too wide.",
                ),
                *solver_inputs(),
                advanced(
                    io.Float.Input(
                        "cfg",
                        default=1.0,
                        min=0.0,
                        max=30.0,
                        step=0.1,
                        tooltip="Guidance during the inversion. 1 (no guidance) is exact enough to "
                        "sample from; higher needs a negative, doubles the cost, drifts with "
                        "ddim and may not converge with anderson; obelm, bdia, edict and "
                        "edit_friendly are exact at any.",
                    )
                ),
                *anderson_inputs(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Connect it only to give the unconditional half an exemplar of its "
                    "own, inverted with this prompt; costs one model row more at each sampling "
                    "step.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Falling noise levels from any scheduler node; replaces steps and "
                    "schedule.",
                ),
                advanced(
                    io.Combo.Input(
                        "features",
                        options=list(FEATURES),
                        default="live",
                        optional=True,
                        tooltip="cached, cached_int8: what the solver saw last at each step is "
                        "kept with the chain, so that already the first run of a RIVAL Patch "
                        "Model with the same features pays no row for the photo. Takes the memory "
                        "that is told there; not with ddim and others that never see the "
                        "chain's own latents. live: nothing is kept.",
                    )
                ),
                *scheme_inputs(),
            ],
            outputs=[
                RivalChain.Output(
                    display_name="chain",
                    tooltip="The chain: share it between any number of patches and samplers.",
                ),
                io.Latent.Output(
                    display_name="noise",
                    tooltip="The chain's end. A core sampler continues from it with no noise "
                    "added; not of a flow model, which takes RIVAL KSampler or RIVAL Noise.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent,
        positive,
        steps,
        schedule,
        solver,
        iterations,
        tolerance,
        cfg,
        anderson_window,
        anderson_mixing,
        negative=None,
        sigmas=None,
        features="live",
        coupling=0.0,
        seed=0,
        caption_attention="words",
    ) -> io.NodeOutput:
        with named(NODE):
            card = host.model_card(model)
            checks.unpatched(model)
            solver = Solver(
                solver, iterations, tolerance, anderson_window, anderson_mixing, coupling, seed
            )
            check_family(solver.name, host.is_flow(model))
            image = checks.latent_image(latent, model)
            positive, negative = cls.conditioning(model, image, positive, negative)
            if caption_attention == "uniform":
                positive = uniform(positive, host.is_dit(model))
            walked = "sigmas" if sigmas is not None else cls.walked(model, schedule)
            falling = cls.sigmas(model, steps, walked, sigmas)
            notices = [*unused(solver), *before_inverting(model, latent, image, cfg, falling)]
            notices = notify(NODE, notices)
            handover = None
            if features != "live":
                prompts = (positive, negative)
                handover = Handover(model, card, features, len(falling) - 1, prompts)
            inversion, end = host.invert(
                model, image, positive, negative, cfg, falling, solver, handover
            )
        chain = Chain(
            sigmas=falling.flip(0),
            **inversion.of_chain(),
            scaling=host.scaling_of(model),
            model=card,
            positive=positive,
            negative=negative,
            cfg=cfg,
            solver=solver,
            schedule=walked,
            weights=host.weights_fingerprint(model),
            is_flat=latent["samples"].ndim < image.ndim,
        )
        logging.info("%s: %s\n%s", NODE, summary(chain), residual_table(chain))
        notices += notify(NODE, chain_notices(chain))
        if handover is not None:
            notices += handover.hand_over(chain)
        noise = {"samples": chain.as_photo(end)}
        return output(chain, noise, text=[*notices, cls.summary(chain, schedule)])

    @classmethod
    def summary(cls, chain, schedule) -> str:
        """One line; of a model that walks its own schedule, which that is."""
        is_own = schedule == "rival" and chain.schedule == "simple"
        own = f" to {float(chain.sigmas[0]):g}, the model's own walk (simple)" if is_own else ""
        return summary(chain, own)

    @classmethod
    def conditioning(cls, model, image, positive, negative):
        """The exemplar's prompts; an inpainting UNet also sees its own image, all of it open."""
        extra = {}
        if host.is_inpainting(model):
            mask = image.new_ones([1, 1, *image.shape[2:]])
            extra = {"concat_latent_image": image, "concat_mask": mask}
        given = {"positive": positive, "negative": negative}
        checked = {
            name: checks.whole_conditioning(c, name) for name, c in given.items() if c is not None
        }
        full = {name: [[c[0][0], {**c[0][1], **extra}]] for name, c in checked.items()}
        return full["positive"], full.get("negative")

    @classmethod
    def walked(cls, model, schedule) -> str:
        """rival is a transformer's own walk: some have never seen another top than pure noise."""
        return "simple" if schedule == "rival" and host.is_dit(model) else schedule

    @classmethod
    def sigmas(cls, model, steps, schedule, sigmas) -> torch.Tensor:
        """The falling sigmas that the widgets, or the input, ask for."""
        if sigmas is not None:
            return check_sigmas(sigmas)
        if schedule == "rival":
            return rival_sigmas(host.timesteps_of(model), steps)
        return check_sigmas(host.scheduler_sigmas(model, schedule, steps))
