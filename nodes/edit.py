"""RIVAL Edit: a photo changed from what it is to what it shall be, without an inversion."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.chain import same
from ..rival_core.editing.pair import PATHS
from ..rival_core.errors import RivalError
from ..rival_core.inversion.schedule import check_sigmas
from ..rival_core.sampling.partial_noise import DrawnNoise
from ..rival_core.steering.masks import resize_mask
from . import checks, host
from .schema import named, notify, output, schema
from .start import draws_of, seed_input
from .steering.run import exemplars_of
from .values import checked

NODE = "RIVAL Edit"


def guidance(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def count(name: str, default: int, most: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=default, min=1, max=most, tooltip=tooltip)


def walk_inputs() -> list[io.Input]:
    return [
        count("steps", 28, 10000, "Of the whole schedule; change says how many are walked."),
        io.Combo.Input(
            "scheduler",
            options=list(host.SCHEDULERS),
            default="simple",
            tooltip="How the steps lie, as in KSampler.",
        ),
        guidance(
            "cfg",
            5.5,
            "Guidance towards positive. Distilled models (Flux dev, LCM) take their guidance from "
            "the prompts (FluxGuidance): 1 here, and 1 below, halves the cost.",
        ),
        guidance("source_cfg", 1.5, "Guidance towards source: well below cfg."),
        io.Float.Input(
            "change",
            default=0.85,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="How much may change: the last share of the steps that is walked. Lower keeps "
            "the photo's layout and costs less; 1 lets everything go.",
        ),
        io.Combo.Input(
            "path",
            options=list(PATHS),
            default="smooth",
            tooltip="smooth: FlowEdit's, a little at every step. direct: InfEdit's, all at every "
            "step, for LCM models: 12 steps, cfg 2.3, source_cfg 1, change 1.",
        ),
        count("average", 1, 64, "Noises at every step whose edits are averaged: calmer, and as "
                                "many times the cost."),
        count("batch_size", 1, 4096, "Edits at once, each with noise of its own."),
    ]


@checked()
class RivalEdit(io.ComfyNode):
    """The pair sampler: FlowEdit (2412.08629) and InfEdit (2312.04965)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["edit", "img2img", "image to image", "prompt edit", "flowedit", "infedit",
             "edit without inversion"],
            node_id="RivalEdit",
            display_name=NODE,
            description=(
                "Edits a photo with two prompts: what it is, and what it shall be. No inversion, "
                "no chain: at every step the model sees the photo under fresh noise with both, "
                "and the difference moves the image. 2 to 4 model rows an image and step."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Any supported model that is not for inpainting."),
                io.Latent.Input(
                    "latent",
                    tooltip="The photo, from VAE Encode, or several. With a noise mask, only that "
                    "part changes.",
                ),
                io.Conditioning.Input("positive", tooltip="What it shall be."),
                io.Conditioning.Input(
                    "source", tooltip="What it is: the same words but for what changes."
                ),
                io.Conditioning.Input("negative", tooltip="What neither is; empty is usual."),
                seed_input(),
                *walk_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the photo may change (1), of any size; soft edges count. "
                    "Outside, it stays as it is, bit for bit.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The edited photo.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent,
        positive,
        source,
        negative,
        seed,
        steps,
        scheduler,
        cfg,
        source_cfg,
        change,
        path,
        average,
        batch_size,
        mask=None,
    ) -> io.NodeOutput:
        with named(NODE):
            cls.check(model)
            samples = checks.latent_images(latent, model)
            draws = draws_of(latent, batch_size)
            samples = samples.repeat_interleave(batch_size, 0)
            mask = checks.one_mask("mask", mask, may_be_empty=True)
            where = editable(samples, latent.get("noise_mask"), mask)
            sigmas = walked(host.scheduler_sigmas(model, scheduler, steps), change)
        notices = notify(NODE, cls.notices(model, positive, source, cfg == source_cfg, where))
        with named(NODE):
            samples = host.edit(
                model, samples,
                {"positive": positive, "source": source, "negative": negative},
                {"positive": cfg, "source": source_cfg},
                sigmas, DrawnNoise(seed, draws, tuple(samples.shape[1:])), where, seed,
                path=path, average=average,
            )  # fmt: skip
            notices += notify(NODE, checks.finite_images(samples))
        result = {name: latent[name] for name in ("noise_mask",) if name in latent}
        if "batch_index" in latent:
            result["batch_index"] = draws
        return output({**result, "samples": samples}, text=notices)

    @classmethod
    def check(cls, model) -> None:
        host.model_card(model)
        if host.is_inpainting(model):
            raise RivalError(
                "this model is for inpainting, and sees a picture beside the latent: load a "
                "checkpoint that is not"
            )
        if exemplars_of(model):
            raise RivalError(
                "this model carries RIVAL Patch Model, whose photo has its chain's noise and not "
                "this node's: connect the model from before that"
            )

    @classmethod
    def notices(cls, model, positive, source, same_cfg: bool, where: Tensor | None) -> list[str]:
        notices = [
            f"{name} may remember other model calls or cut them into tiles, so the edit goes "
            "without" for name in host.around(model.model_options, model.wrappers)
        ]  # fmt: skip
        if same_cfg and same(positive, source):
            notices.append("positive and source are the same at the same cfg, so the photo comes "
                           "back as it is")
        if where is not None and not where.any():
            notices.append("the mask is empty, so the photo comes back as it is")
        return notices


def walked(sigmas: Tensor, change: float) -> Tensor:
    """The last `change` of the steps of a schedule [S + 1], falling; at least one."""
    steps = len(sigmas) - 1
    return check_sigmas(sigmas)[steps - max(1, round(change * steps)) :]


def editable(samples: Tensor, noise_mask: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """[1 or B, 1, H, W]: where samples [B, C, H, W] may change, of both masks; None: everywhere."""
    where = None if mask is None else resize_mask(mask, samples)
    if noise_mask is None:
        return where
    if not torch.isfinite(noise_mask).all():
        raise RivalError("the latent's noise_mask holds NaN: paint the mask again")
    laid = host.latent_mask(noise_mask, samples)
    return laid if where is None else where * laid
