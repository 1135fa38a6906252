"""RIVAL Reconstruct: the way back along a chain, and how far it ends from the photo."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.report import errors, summary
from ..rival_core.errors import RivalError
from . import checks, host
from .schema import named, notify, output, schema
from .start import chain_input, start_noise
from .steering.remarks import left_out
from .values import checked

NODE = "RIVAL Reconstruct"


def picture_is_decoded(vae: Any, image: Any) -> None:
    if image is not None and vae is None:
        raise RivalError("an image is connected without its VAE: connect the VAE, too")


@checked(picture_is_decoded)
class RivalReconstruct(io.ComfyNode):
    """The chain walked down as it was walked up, by Euler or its scheme; against the exemplar."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["reconstruction", "inversion check", "round trip", "psnr"],
            node_id="RivalReconstruct",
            display_name=NODE,
            description=(
                "Walks a chain back to the image, as its solver walked up, and says how far it "
                "ends from the photo: what the inversion lost. No steering. As many model calls "
                "as a pass of the solver (one a step, two of edict and midpoint), at the "
                "inversion's guidance."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that made the chain, without a patch."),
                chain_input(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Compares pictures, too: the chain's two ends, decoded.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The photo itself, as it went into VAE Encode; needs the VAE. The "
                    "error then includes what the VAE loses.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The reconstruction."),
                io.Float.Output(
                    display_name="mse",
                    tooltip="Mean squared error against the exemplar's latent, as a share of that "
                    "latent's mean square.",
                ),
                io.Float.Output(
                    display_name="psnr",
                    tooltip="Decibels: of the pictures if there is a VAE, else of the latents.",
                ),
                io.String.Output(display_name="report", tooltip="The same in words."),
            ],
        )

    @classmethod
    def execute(cls, model, chain, vae=None, image=None) -> io.NodeOutput:
        with named(NODE):
            checks.same_model(chain, model)
            checks.unpatched(model)
            others = host.kept_out(model.model_options, model.wrappers)
            unguided = host.guidance_of(model.model_options) if chain.cfg == 1.0 else []
            notices = [*checks.same_weights(chain, model), *left_out(others, unguided)]
            notices = notify(NODE, notices)
            noise = start_noise(chain, 0, "inverted", chain.grid, [0])
        with named(NODE), host.explained(others):
            samples = host.sample(
                host.set_apart(model, chain.cfg),
                noise,
                chain.cfg,
                host.chain_sampler(chain, is_own=True),
                chain.falling_sigmas(),
                chain.scaling.end_scale(float(chain.sigmas[0])),
                chain.positive,
                chain.negative or chain.positive,
                chain.seed,
            )
            checks.finite_images(samples)
        exemplar = host.from_model_space(model, chain.clean.to(samples))
        found = [errors(samples, exemplar)]
        lines = [*notices, summary(chain), f"latent: {found[0]}"]
        if vae is not None:
            decoded, pixels = host.decoded(vae, samples).cpu(), samples.shape[-1]
            with named(NODE):
                wanted = host.decoded(vae, exemplar).cpu() if image is None else (
                    photo(image, decoded, decoded.shape[2] // pixels))
            found.append(errors(decoded, wanted, peak=1.0))
            lines.append(f"image: {found[1]}")
        latent, text = {"samples": chain.as_photo(samples)}, "\n".join(lines)
        return output(latent, found[0].relative, found[-1].psnr, text, text=lines)


def photo(image: Tensor, decoded: Tensor, pixels: int) -> Tensor:
    """The photo [1, H, W, 3] as VAE Encode saw it: cut, centred, to the decoded picture's size.

    pixels: to a side of a latent's, which VAE Encode cuts to whole ones of.
    """
    height, width = decoded.shape[1:3]
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    if len(image) != 1 or not (0 <= top < pixels and 0 <= left < pixels):
        raise RivalError(
            f"the image is {list(image.shape[:3])} (count, height, width) and the chain's is "
            f"[1, {height}, {width}]: connect what went into VAE Encode"
        )
    return image[:, top : top + height, left : left + width, :3].cpu()
