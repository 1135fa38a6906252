"""RIVAL Chain Report: a chain to look at, and the same in words. No model calls."""

from __future__ import annotations

from comfy_api.latest import io, ui
from PIL import Image

from ..rival_core.chain.chain import Chain
from ..rival_core.chain.report import chain_notices, residual_table, summary
from ..rival_core.chain.statistics import gap_lines, moments_table
from . import host
from .pictures.chain_picture import details, draw_report, shown_levels
from .schema import named, output, schema
from .start import chain_input
from .values import checked

NODE = "RIVAL Chain Report"
LOSS = "what the inversion lost of the image needs the model: see RIVAL Reconstruct"


@checked()
class RivalChainReport(io.ComfyNode):
    """Thumbnails, residuals, model calls, and the distribution gap."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["inspect chain", "show chain", "inversion plot", "residuals", "distribution gap"],
            node_id="RivalChainReport",
            display_name=NODE,
            description=(
                "Draws a chain: its way from the photo to noise, how well each step was solved, "
                "and how far its noise is from the Gaussian that plain sampling starts from. No "
                "model calls."
            ),
            inputs=[
                chain_input(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the thumbnails (up to 10 pictures). Without it they are the "
                    "small, blurred ones of the previews.",
                ),
            ],
            is_output_node=True,
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture, 1400 pixels wide."),
                io.String.Output(
                    display_name="report",
                    tooltip="The same in words, with every step's residual, mean and std.",
                ),
            ],
        )

    @classmethod
    def execute(cls, chain, vae=None) -> io.NodeOutput:
        with named(NODE):
            thumbnails = [(level, thumbnail(chain, level, vae)) for level in shown_levels(chain)]
        how = "as fast previews: connect a VAE to decode" if vae is None else "decoded by the VAE"
        note = f"Each step's latent, {how}."
        if any(picture is None for _, picture in thumbnails):
            note = f"ComfyUI has no way to show the latent format {chain.model.latent_format}."
        image = host.from_pillow(draw_report(chain, thumbnails, note))
        lines = [summary(chain), *chain_notices(chain), *gap_lines(chain)]
        report = [f"{chain.model.family}: {details(chain)}", *lines, LOSS, "",
                  residual_table(chain), "", moments_table(chain)]
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        return output(image, "\n".join(report), text=lines, **shown)


def thumbnail(chain: Chain, level: int, vae) -> Image.Image | None:
    """The level's latent as one of unit variance, which is where a VAE can follow it."""
    host.stop_if_interrupted()
    latent = chain.latents[level : level + 1]
    latent = chain.scaling.rescale(latent, float(chain.sigmas[level]), 0.0)
    picture = host.picture_of(latent, chain.model.latent_format, vae)
    return None if picture is None else host.to_pillow(picture)
