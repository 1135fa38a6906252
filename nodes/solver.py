"""What RIVAL Invert asks about its solver, and what of it does not fit together."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..rival_core.errors import RivalError
from ..rival_core.inversion.fixed_point import MOST_SEED, SOLVERS, Solver
from ..rival_core.inversion.schemes import SCHEMES
from .schema import advanced

ATTENTION = ("words", "uniform")


def solver_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "solver",
            options=list(SOLVERS),
            default="ddim",
            tooltip="How each step is inverted. ddim: one model call, as in the RIVAL paper; "
            "drifts at few steps. anderson: solved to its fixed point, so that 20 steps bring the "
            "photo back. fixed_point and empirical: the plain iteration, and AIDI's two-point one. "
            "uni_inv: one model call more in all, and nearer than ddim. obelm: one call a step and "
            "the photo back exactly, at any cfg, by RIVAL KSampler's sampler chain. bdia: as well, "
            "with coupling 0.9 for edits; edict: for two calls. edit_friendly: exact from "
            "fresh noise, each seed another edit (SD, SDXL). midpoint: two calls, near with "
            "chain; fireflow: almost as near for one. rf_inversion: flow models, drawn towards "
            "fresh noise, for free edits.",
        ),
        io.Int.Input(
            "iterations",
            default=5,
            min=1,
            max=100,
            tooltip="At most so many model calls a step of anderson, fixed_point and empirical. "
            "The others take their own number.",
        ),
        io.Float.Input(
            "tolerance",
            default=1e-4,
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="A step is solved once the model would change its latent by less than this "
            "share; then no further calls are spent on it. 0 never stops early. For the "
            "solvers that have iterations.",
        ),
    ]


def anderson_inputs() -> list[io.Input]:
    window = io.Int.Input(
        "anderson_window",
        default=1,
        min=1,
        max=10,
        tooltip="How many earlier iterates anderson mixes in. 1 is the most reliable.",
    )
    mixing = io.Float.Input(
        "anderson_mixing",
        default=1.0,
        min=0.05,
        max=1.0,
        step=0.05,
        tooltip="How far anderson follows the model's answer: 1 is all the way, lower is "
        "slower and calmer.",
    )
    return [advanced(window), advanced(mixing)]


def scheme_inputs() -> list[io.Input]:
    """Of the solvers that are schemes; newer than the others, so optional and last."""
    coupling = io.Float.Input(
        "coupling",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=True,
        tooltip="The one number that bdia (gamma), edict (p) and rf_inversion (gamma) have; 0 is "
        "the method's own. bdia: 0.9 to 1, its own 1, for edits 0.9. edict: above 0.5, its own "
        "0.93; both count over 50 steps, whatever yours are. rf_inversion: its own 0.5; higher "
        "goes nearer to fresh noise and edits more freely.",
    )
    seed = io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MOST_SEED,
        control_after_generate=False,
        optional=True,
        tooltip="Of the noise that edit_friendly and rf_inversion draw: another seed gives other "
        "edits of the same photo. Not for the other solvers.",
    )
    attention = io.Combo.Input(
        "caption_attention",
        options=list(ATTENTION),
        default="words",
        optional=True,
        tooltip="uniform: every place reads all words of positive alike (Uniform Attention Maps), "
        "so that a caption which fits badly bends the inversion less. Best with an empty prompt. "
        "For SD and SDXL; not for transformers.",
    )
    return [advanced(coupling), advanced(seed), advanced(attention)]


def guidance_has_two_sides(cfg: float, negative: Any) -> None:
    if cfg != 1.0 and negative is None:
        raise RivalError(f"cfg is {cfg} and no negative is connected: connect one or set 1")


def unused(solver: Solver) -> list[str]:
    """A notice for what was set and the solver does not have."""
    scheme, others = solver.scheme, []
    if solver.coupling and (scheme is None or scheme.coupling is None):
        having = [name for name, s in SCHEMES.items() if s.coupling is not None]
        others.append(f"coupling is {solver.coupling:g}, which only {', '.join(having)} have")
    if solver.seed and (scheme is None or not scheme.draws):
        having = [name for name, s in SCHEMES.items() if s.draws]
        others.append(f"seed is {solver.seed}, which only {', '.join(having)} use")
    return [f"{other}: it changes nothing with {solver.name}" for other in others]


def uniform(conditioning: Any, is_transformer: bool) -> Any:
    """A prompt whose words all weigh the same, wherever they are read.

    Attention to one key is 1, and values are linear in the text: so one token, their mean, does
    (Uniform Attention Maps, 2411.19652). The pooled encoding stays. RivalError of a transformer:
    most have image and text in one attention, and Wan bends the text before its values are made,
    so that no token's value is their mean.
    """
    if is_transformer:
        raise RivalError(
            "caption_attention is uniform, which is for SD and SDXL, and this model is a "
            "transformer: set it to words"
        )
    return [[tokens.mean(dim=1, keepdim=True), options] for tokens, options in conditioning]
