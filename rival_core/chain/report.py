"""What an inversion, or its way back, is worth: figures, and the sentences that say them."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from .chain import Chain
from .statistics import noise_width

# Of the worst step's residual, times the guidance. Its square is about the relative squared error
# of the latent that comes back: 2e-3, which 50 steps of ddim leave, and variations are no better
# with less, and 1e-2, which 20 leave, and their palette is a little off (docs/quality.md).
WELL, FAIRLY = 0.045, 0.1

# Times what a model knows, of the noise at a chain's lowest level: at 1.6 a flow model's variations
# lost their shapes, at 0.8 they did not (docs/quality.md).
TOO_WIDE = 1.25


def verdict(chain: Chain) -> str:
    """How well the photo was inverted: well, fairly or poorly; nothing where no step was judged."""
    if chain.solver.is_exact:
        return "well"
    if chain.residuals is None:
        return ""
    worst = max(1.0, chain.cfg) * float(chain.residuals.max())
    return "well" if worst <= WELL else "fairly" if worst <= FAIRLY else "poorly"


def summary(chain: Chain, walk: str = "") -> str:
    """One line: how well it went, steps, cost, and how well the steps were solved.

    walk: what there is to say of the noise levels, after their top.
    """
    how, name = verdict(chain), chain.solver.name
    calls = f"{chain.evaluations} model evaluations"
    text = f"inverted {how}: " if how else ""
    text += f"{chain.steps} steps, {calls}, sigma {chain.top:.4g}{walk}; {name}"
    if chain.solver.is_exact:
        return f"{text}: exact where it is walked back by the sampler chain"
    if chain.residuals is None:
        return f"{text}: how well, RIVAL Reconstruct says"
    worst = int(chain.residuals.argmax())
    guessed = how != "well" and not chain.solver.iterates
    advice = "; anderson, or more steps, is nearer" if guessed else ""
    return (
        f"{text}: residual {float(chain.residuals.median()):.1e} in the median, "
        f"{float(chain.residuals[worst]):.1e} at worst (step {worst + 1}){advice}"
    )


def residual_table(chain: Chain) -> str:
    """One line a step: sigma, relative residual, model calls."""
    lines = ["step  sigma     residual  calls"]
    if chain.calls is not None:
        solved = [f"{'none':>7}"] * chain.steps
        if chain.residuals is not None:
            solved = [f"{residual:.1e}" for residual in chain.residuals.tolist()]
        rows = zip(chain.sigmas[1:].tolist(), solved, chain.calls.tolist())
        lines += [f"{i:4d}  {s:<8.4g}  {r}  {n:5d}" for i, (s, r, n) in enumerate(rows, 1)]
    return "\n".join(lines)


def chain_notices(chain: Chain) -> list[str]:
    """What to change, where a chain is no good one to sample beside."""
    return unsolved_notice(chain) + wide_notice(chain)


def wide_notice(chain: Chain) -> list[str]:
    """That the walk's last step was too long for the photo, as its noise says; or nothing."""
    width, sigma = noise_width(chain), float(chain.sigmas[1])
    if not width > TOO_WIDE:
        return []
    advice = "raise steps" if chain.schedule == "beta" else (
        "choose the schedule beta, whose last steps are short, or raise steps")
    return [
        f"the chain's noise is {width:.2f} times as wide as noise is, already at its lowest level "
        f"(sigma {sigma:.3g}): the walk's last step is too long to hold the photo's detail, which "
        f"costs variations their shapes; {advice}"
    ]


def unsolved_notice(chain: Chain) -> list[str]:
    """What to change, if the solver stopped above its tolerance anywhere; at most one sentence."""
    steps, solver = chain.unsolved, chain.solver
    if not steps:
        return []
    worst = max(steps, key=lambda i: float(chain.residuals[i]))
    advice = ["raise iterations or steps"]
    if solver.name != "anderson":
        advice.insert(0, "choose the solver anderson")
    if chain.cfg != 1.0:
        advice.insert(0, "set cfg to 1")
    return [
        f"the inversion did not converge at {len(steps)} of {chain.steps} steps: the residual "
        f"is {float(chain.residuals[worst]):.1e} at step {worst + 1} after "
        f"{int(chain.calls[worst])} iterations, above the tolerance {solver.tolerance:.0e}; "
        + ", or ".join(advice)
    ]


class Errors(NamedTuple):
    """How far a reconstruction is from its reference."""

    mse: float
    relative: float  # mse as a share of the reference's mean square
    psnr: float  # decibels; infinite if there is no error

    def __str__(self) -> str:
        return f"MSE {self.mse:.2e} (relative {self.relative:.2e}), PSNR {self.psnr:.1f} dB"


def errors(x: Tensor, reference: Tensor, peak: float | None = None) -> Errors:
    """x against a reference of the same shape; the peak is the reference's range by default."""
    x, reference = x.cpu().double(), reference.cpu().double()  # squares of large numbers, too
    mse, power = (float(t.square().mean()) for t in (x - reference, reference))
    peak = float(reference.max() - reference.min()) if peak is None else peak
    relative = mse / power if power > 0 else math.inf if mse > 0 else 0.0
    if mse == 0 or peak == 0:  # no error, or a reference without any range
        return Errors(mse, relative, math.inf if mse == 0 else -math.inf)
    return Errors(mse, relative, 10 * math.log10(peak**2 / mse))
