"""RIVAL Noise and RIVAL Sigmas: what makes SamplerCustomAdvanced equal to RIVAL KSampler."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import RivalError
from ..rival_core.inversion.schedule import check_sigmas
from ..rival_core.sampling.noise import noise_of, start_latents
from .schema import named, notify, schema
from .start import chain_input, has_picture, seed_input, start_input, start_noise, target
from .values import checked

NODE = "RIVAL Noise"


class AlignedNoise:
    """A NOISE that starts a core sampler, at one of its sigmas, where RIVAL KSampler starts."""

    def __init__(self, chain: Chain, seed: int, start: str, sigma: float):
        self.chain, self.seed, self.start, self.sigma = chain, seed, start, sigma

    def generate_noise(self, input_latent: dict) -> Tensor:
        chain, at_top = self.chain, self.sigma >= self.chain.top
        with named(NODE):
            size, draws = target(input_latent, chain, 1)
            picture = has_picture(input_latent)  # to which the sampler adds the noise itself
            if picture and not at_top:
                noise = noise_of(chain, self.sigma)
                return start_latents(noise, size, draws, self.seed, self.start)
            if picture and input_latent.get("noise_mask") is None:
                notify(NODE, ["the sampler adds the picture in latent_image to a start without "
                              "one: give an Empty Latent Image, or connect a part of the sigmas "
                              "here and to the sampler"])  # fmt: skip
            return start_noise(chain, self.seed, self.start, size, draws, self.sigma)


@checked()
class RivalNoise(io.ComfyNode):
    """The aligned start as NOISE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["aligned noise", "inverted noise", "shuffled noise"],
            node_id="RivalNoise",
            display_name=NODE,
            description=(
                "The start of RIVAL KSampler as NOISE for SamplerCustomAdvanced, on an empty "
                "latent of any size, with the sigmas of RIVAL Sigmas; or on a picture, with a part "
                "of them (Split Sigmas) here and there. No model calls."
            ),
            inputs=[
                chain_input(),
                seed_input(),
                start_input(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The sampler's sigmas, if they are a part of RIVAL Sigmas: the start "
                    "is at the first of them, from the photo on an empty latent, else from the "
                    "picture in latent_image.",
                ),
            ],
            outputs=[io.Noise.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, chain, seed, start, sigmas=None) -> io.NodeOutput:
        with named(NODE):
            sigma = chain.top if sigmas is None else float(check_sigmas(sigmas)[0])
            if sigma > chain.top * (1 + 1e-6):
                raise RivalError(
                    f"the sigmas begin at {sigma:.4g}, above the chain's {chain.top:.4g}: connect "
                    "RIVAL Sigmas, or a part of them"
                )
        return io.NodeOutput(AlignedNoise(chain, seed, start, sigma))


@checked()
class RivalSigmas(io.ComfyNode):
    """The chain's own noise levels as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["aligned sigmas", "chain sigmas", "scheduler"],
            node_id="RivalSigmas",
            display_name="RIVAL Sigmas",
            description=(
                "The noise levels that the chain visited, falling, for SamplerCustomAdvanced. No "
                "model calls."
            ),
            inputs=[
                chain_input(),
                io.Boolean.Input(
                    "end_at_zero",
                    default=False,
                    tooltip="Append the level 0. Samplers that add noise (ancestral, SDE, LCM) and "
                    "inpainting need it.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, chain, end_at_zero) -> io.NodeOutput:
        return io.NodeOutput(chain.falling_sigmas(end_at_zero))
