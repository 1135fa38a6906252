"""RIVAL KSampler, and the NOISE and SIGMAS that make SamplerCustomAdvanced equal to it."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain import Chain
from ..rival_core.errors import RivalError
from ..rival_core.noise import STARTS, partial_latents, start_latents
from ..rival_core.sampling import DrawnNoise, check_eta
from . import checks, host
from .alignment import exemplars_of
from .schema import RivalChain, advanced, named, notify, output, schema

NODE = "RIVAL KSampler"
START_TOOLTIP = (
    "Where generation starts. shuffle: the photo's inverted noise with its positions shuffled by "
    "the seed, as in the paper. gaussian: noise with its per-channel statistics. inverted: that "
    "noise itself, for edits that keep the layout."
)


def seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="The same seed gives the same image; each batch item draws its own start.",
    )


def start_input() -> io.Input:
    return io.Combo.Input("start", options=list(STARTS), default="shuffle", tooltip=START_TOOLTIP)


def chain_input() -> io.Input:
    return RivalChain.Input("chain", tooltip="The photo, from RIVAL Invert.")


def start_noise(
    chain: Chain, seed: int, start: str, size: tuple, draws: list[int], sigma: float | None = None
) -> Tensor:
    """The noise that the host, scaling it on an empty latent, turns into the start latents.

    sigma: one of the chain's below its top, to start there from the photo.
    """
    if sigma is None or sigma >= chain.top:
        latents = start_latents(chain.end.cpu(), size, draws, seed, start)
        return latents / chain.scaling.noise_scale(chain.top)
    if size != (own := tuple(chain.latents.shape[2:])):
        raise RivalError(
            f"denoise is below 1 and the latent is {size}, the photo's {own}: leave the latent "
            "unconnected, or set denoise to 1"
        )
    return partial_latents(chain, sigma, draws, seed, start) / chain.scaling.noise_scale(sigma)


def sigmas_from(chain: Chain, denoise: float, end_at_zero: bool) -> Tensor:
    """The chain's falling sigmas, or the last `denoise` of their steps; at least one."""
    if not 0.0 < denoise <= 1.0:
        raise RivalError(f"denoise is {denoise}: give more than 0, up to 1")
    skipped = chain.steps - max(1, round(denoise * chain.steps))
    return chain.falling_sigmas(end_at_zero)[skipped:]


def target(latent: dict | None, chain: Chain, batch_size: int) -> tuple[tuple[int, int], list[int]]:
    """The target's latent (height, width), and which draw of the seed each batch item takes."""
    checks.at_least_one("batch_size", batch_size)
    if latent is None:
        return tuple(chain.latents.shape[2:]), list(range(batch_size))
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4 or not samples.numel():
        raise RivalError(f"the latent has the shape {list(samples.shape)}: give a latent of images")
    count = samples.shape[0]
    if count > 1 and batch_size > 1:
        raise RivalError(
            f"batch_size is {batch_size} and the latent already holds {count} images: set one of "
            "them to 1"
        )
    first = list(latent.get("batch_index", range(count)))
    if len(first) != count:
        raise RivalError(
            f"the latent holds {count} images and its batch_index {len(first)} entries: make it "
            "anew with Latent From Batch"
        )
    return tuple(samples.shape[2:]), [j + i for j in first for i in range(batch_size)]


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


class RivalKSampler(io.ComfyNode):
    """Generation aligned with the inversion chain (RIVAL section 3.1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["variation", "image variation", "aligned sampler", "reference sampler"],
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
                    "level 0.",
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
                    "photo stays, and its noise at that level is shuffled. 0.6 keeps the layout.",
                ),
                *eta_inputs(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Only its size is used: connect Empty Latent Image for another size or "
                    "aspect than the photo's.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
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
            checks.same_model(chain, host.model_card(model))
            checks.finite("cfg", cfg)
            check_eta(eta, eta_start, eta_end)
            if latent is not None and "noise_mask" in latent:
                raise RivalError(
                    "the latent carries a noise_mask and inpainting is not supported yet: connect "
                    "a latent without one"
                )
            size, draws = target(latent, chain, batch_size)
            draws_noise = eta > 0 or sampler_name not in host.NOISELESS
            sigmas = sigmas_from(chain, denoise, end_at_zero=draws_noise)
            noise = start_noise(chain, seed, start, size, draws, float(sigmas[0]))
            sampler = host.sampler(sampler_name)
            if eta > 0:
                fresh = DrawnNoise(seed, draws, tuple(noise.shape[1:]))
                sampler = cls.partial_noise(model, sampler_name, fresh, eta, eta_start, eta_end)
        notices = notify(NODE, cls.notices(model, chain))
        scale = chain.scaling.level(float(sigmas[-1]))
        samples = host.sample(
            model, noise, cfg, sampler, sigmas, scale, positive, negative, seed
        )
        result = {"samples": samples}
        if latent is not None and "batch_index" in latent:
            result["batch_index"] = draws
        return output(cls, result, text=notices)

    @classmethod
    def partial_noise(cls, model, sampler_name, fresh, eta, start, end):
        """The sampler that draws fresh noise inside the window of the schedule."""
        if sampler_name != "euler":
            raise RivalError(
                f"eta is {eta} and sampler_name {sampler_name}: choose euler, or set eta to 0"
            )
        if host.is_flow(model):
            raise RivalError(f"eta is {eta} and the model is sampled as a flow: set eta to 0")
        timesteps = host.timesteps_of(model)

        def stochastic(sigma: float) -> bool:
            return start <= 1 - timesteps.t(sigma) / 1000 < end

        return host.partial_noise_sampler(fresh, stochastic, eta)

    @classmethod
    def notices(cls, model, chain) -> list[str]:
        exemplars = exemplars_of(model)
        if not exemplars:
            return ["the model has no RIVAL Patch Model, so nothing of the photo is injected"]
        if all(e.chain is not chain for e in exemplars):
            return ["the model was patched with another chain than the one it starts from"]
        return []


class AlignedNoise:
    """A NOISE that starts a core sampler where RIVAL KSampler starts."""

    def __init__(self, chain: Chain, seed: int, start: str):
        self.chain, self.seed, self.start = chain, seed, start

    def generate_noise(self, input_latent: dict) -> Tensor:
        with named("RIVAL Noise"):
            size, draws = target(input_latent, self.chain, 1)
            return start_noise(self.chain, self.seed, self.start, size, draws)


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
