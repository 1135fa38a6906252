"""What there is to say before a node runs, that is no error."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import shown
from . import host
from .steering.remarks import left_out

BELOW_TOP = 0.99  # of the model's highest sigma
SCHNELL, MOST_SCHNELL = "FluxSchnell", 8  # distilled to 4 steps


def before_inverting(
    model: Any, latent: dict, image: Tensor, cfg: float, sigmas: Tensor
) -> list[str]:
    """sigmas: falling."""
    unguided = host.guidance_of(model.model_options) if cfg == 1.0 else []
    notices = left_out(host.kept_out(model.model_options, model.wrappers), unguided)
    family = type(model.model.model_config).__name__
    tokens, native = image[0, 0].numel(), host.FAMILIES[family].area
    if tokens > 2 * native:
        notices.append(
            f"the image has {tokens} latent tokens and {family} was trained at {native}: "
            "scale it down first, or expect repeated content and slow steps"
        )
    if "noise_mask" in latent:
        notices.append("the latent's noise_mask is not used: the whole image is inverted")
    return notices + walk_notices(model, family, sigmas)


def walk_notices(model: Any, family: str, sigmas: Tensor) -> list[str]:
    """Of a walk that a transformer was not trained for."""
    top, steps, notices = host.scaling_of(model).sigma_max, len(sigmas) - 1, []
    if host.is_dit(model) and float(sigmas[0]) < BELOW_TOP * top:
        notices.append(
            f"the chain begins at sigma {float(sigmas[0]):.3g}, where this model still sees some "
            f"of the photo: choose the schedule rival, which begins at {top:.3g}"
        )
    if family == SCHNELL and steps > MOST_SCHNELL:
        notices.append(
            f"{family} was distilled to 4 steps and the chain has {steps}: choose 4 to "
            f"{MOST_SCHNELL}"
        )
    return notices


def other_guidance(chain: Chain, positive: Any) -> list[str]:
    """Of a model that is told its guidance, the photo and the image should be told the same."""
    if not chain.model.is_transformer:  # UNets are never told
        return []
    ours, *_ = guidances(chain.positive)
    others = [words(g) for g in guidances(positive) if g != ours]
    if not others:
        return []
    return [
        f"the photo was inverted with {words(ours)} in its prompt, and positive has "
        f"{', '.join(others)}: give both prompts the same FluxGuidance"
    ]


def other_walk(chain: Chain, sampler_name: str) -> list[str]:
    """Of another sampler, on a chain that only its own walk takes back exactly."""
    if not chain.solver.is_exact:
        return []
    return [
        f"the photo was inverted by {chain.solver.name}, whose way back {sampler_name} does not "
        "walk, so it is not exact: choose the sampler chain"
    ]


def guidances(conditioning: Any) -> list[float | None]:
    """What a prompt's entries tell a distilled model; None is the model's default."""
    return [options.get("guidance") for _, options in conditioning]


def words(guidance: float | None) -> str:
    return "no guidance" if guidance is None else f"the guidance {shown(guidance)}"
