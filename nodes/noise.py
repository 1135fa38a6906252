"""RIVAL Noise and RIVAL Sigmas: what makes SamplerCustomAdvanced equal to RIVAL KSampler."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain import Chain
from .schema import named, schema
from .start import chain_input, seed_input, start_input, start_noise, target
from .values import checked


class AlignedNoise:
    """A NOISE that starts a core sampler where RIVAL KSampler starts."""

    def __init__(self, chain: Chain, seed: int, start: str):
        self.chain, self.seed, self.start = chain, seed, start

    def generate_noise(self, input_latent: dict) -> Tensor:
        with named("RIVAL Noise"):
            size, draws = target(input_latent, self.chain, 1)
            return start_noise(self.chain, self.seed, self.start, size, draws)


@checked()
class RivalNoise(io.ComfyNode):
    """The aligned start as NOISE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["aligned noise", "inverted noise", "shuffled noise"],
            node_id="RivalNoise",
            display_name="RIVAL Noise",
            description=(
                "The start of RIVAL KSampler as NOISE for SamplerCustomAdvanced, on an empty "
                "latent of any size, with the sigmas of RIVAL Sigmas. No model calls."
            ),
            inputs=[chain_input(), seed_input(), start_input()],
            outputs=[io.Noise.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, chain, seed, start) -> io.NodeOutput:
        return io.NodeOutput(AlignedNoise(chain, seed, start))


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
