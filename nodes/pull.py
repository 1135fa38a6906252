"""RIVAL Pull: a MODEL whose predictions stay near a photo, in a window and a part of the image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..rival_core.editing.pull import FADES, Pull
from ..rival_core.errors import RivalError
from . import checks, host
from .schema import RivalChain, named, notify, output, schema
from .steering.changes import kept_where_pulled, pull_towards
from .steering.run import PULL as NODE
from .values import checked


def fraction(name: str, default: float, tooltip: str, **how) -> io.Input:
    limits = {"min": 0.0, "max": 1.0, "step": 0.01}
    return io.Float.Input(name, default=default, tooltip=tooltip, **limits, **how)


def there_is_a_photo(latent: Any, chain: Any) -> None:
    if latent is None and chain is None:
        raise RivalError("there is no photo: connect a latent from VAE Encode, or a chain")


@checked(there_is_a_photo)
class RivalPull(io.ComfyNode):
    """The prediction pulled to a photo (RF-Inversion, FlowChef; UAM's mask: keep_similar)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["rf inversion", "flowchef", "eta", "keep photo", "stay close", "source guidance"],
            node_id="RivalPull",
            display_name=NODE,
            description=(
                "Pulls every prediction towards a photo, in a window of the schedule and a part "
                "of the image: strong and early keeps its layout, weak and long its look. Works "
                "with any sampler; the model before this node stays untouched. Costs no model "
                "call."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Patched or not; any sampler takes the result."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The photo, from VAE Encode, of the size that is sampled. Or connect "
                    "a chain.",
                ),
                RivalChain.Input(
                    "chain",
                    optional=True,
                    tooltip="The photo, from RIVAL Invert, in place of a latent.",
                ),
                fraction(
                    "strength",
                    0.9,
                    "How far each prediction is moved to the photo: 0 is the plain model exactly, "
                    "1 the photo itself there.",
                ),
                fraction(
                    "start",
                    0.0,
                    "Where in the schedule (0 = pure noise, 1 = finished) the pull begins.",
                ),
                fraction(
                    "end",
                    0.25,
                    "Where the pull ends. Later is closer to the photo, and leaves less to the "
                    "prompt.",
                ),
                io.Combo.Input(
                    "fade",
                    options=list(FADES),
                    default="none",
                    tooltip="How the strength goes down inside the window. none: it stays. linear "
                    "and cosine: down to 0 at the window's end.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the image is pulled (1), of any size; soft edges count. "
                    "Without one, everywhere.",
                ),
                fraction(
                    "keep_similar",
                    0.0,
                    "A mask that finds itself at every step: only what still looks like the photo "
                    "is pulled, and what the prompt is changing is left alone. 0.5, late in the "
                    "schedule; more pulls more. 0 is off: everything is pulled.",
                    optional=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, pulled. Any sampler takes it.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        strength,
        start,
        end,
        fade,
        latent=None,
        chain=None,
        mask=None,
        keep_similar=0.0,
    ) -> io.NodeOutput:
        with named(NODE):
            mask = checks.one_mask("mask", mask, may_be_empty=True)
            pull = Pull(cls.photo(model, latent, chain), strength, start, end, fade, mask,
                        keep_similar, chain)
        pulled = pull_towards(model, pull)
        notices = cls.notices(model, pull, latent) + kept_where_pulled(pulled)
        return output(pulled, text=notify(NODE, notices))

    @classmethod
    def photo(cls, model, latent, chain):
        """[1, C, H, W], in the model's latent space."""
        if chain is None:
            return host.to_model_space(model, checks.latent_image(latent, model))
        if latent is not None:
            raise RivalError("both latent and chain are connected: disconnect one, for it pulls "
                             "to one photo")  # fmt: skip
        checks.same_model(chain, model)
        return chain.clean

    @classmethod
    def notices(cls, model, pull, latent) -> list[str]:
        notices = [] if pull.chain is None else checks.same_weights(pull.chain, model)
        if pull.start >= pull.end:
            notices.append(f"it would pull from {pull.start} to {pull.end}, so it never does: set "
                           "end above start")
        if pull.mask is not None and not pull.mask.any():
            notices.append("the mask is empty, so nothing is pulled")
        if latent is not None and latent.get("noise_mask") is not None:
            notices.append("the latent's noise_mask is not used: connect a mask to pull in a part")
        return notices
