"""From an image to its chain: every inversion step solved as a fixed point (AIDI, 2309.04907)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import RivalError
from ..values import choice, number, whole_number
from .scaling import Scaling
from .scheme import Inversion, Scheme, Walk
from .schemes import SCHEMES, check_coupling
from .slopes import to_d
from .walks import check_finite, drawn, walk_up

ITERATING = ("fixed_point", "anderson", "empirical")
SOLVERS = ("ddim", *ITERATING, *SCHEMES)
MOST_SEED = 2**64 - 1
RIDGE = 1e-7  # of the Gram matrix's trace: what float32 inner products know


@dataclass(frozen=True)
class Solver:
    """How an inversion goes up: by a scheme (schemes.py), or by solving each step's fixed point.

    ddim is one evaluation and not exact. The iterating ones evaluate the model until the relative
    residual |f(y) - y| / |y| is at most `tolerance`, or `iterations` times: fixed_point goes on
    with f(y), empirical with the mean of the last two f(y) (AIDI_E), anderson with the combination
    of the last window + 1 whose residual is smallest (AIDI_A; mixing 1 is undamped).

    coupling, seed: of the schemes that have a number, 0 for its own value, or draw noise.
    """

    name: str = "ddim"
    iterations: int = 5
    tolerance: float = 1e-4
    window: int = 1
    mixing: float = 1.0
    coupling: float = 0.0
    seed: int = 0

    def __post_init__(self):
        choice("solver", self.name, SOLVERS)
        whole_number("iterations", self.iterations, 1)
        whole_number("anderson_window", self.window, 1)
        number("tolerance", self.tolerance, 0.0)
        if not number("anderson_mixing", self.mixing, 0.0, 1.0):
            raise RivalError("anderson_mixing is 0, which never moves: give up to 1")
        number("coupling", self.coupling, 0.0, 1.0)
        whole_number("seed", self.seed, 0, MOST_SEED)
        check_coupling(self.name, self.coupling)

    @property
    def scheme(self) -> Scheme | None:
        """The walk up and down that this is, if each step is not Euler's, inverted."""
        return SCHEMES.get(self.name)

    @property
    def iterates(self) -> bool:
        """Whether steps are solved, to a residual under the tolerance."""
        return self.name in ITERATING

    @property
    def is_exact(self) -> bool:
        """Whether its own walk down takes back the walk up, whatever the guidance."""
        return self.scheme is not None and self.scheme.exact

    @property
    def leaves(self) -> tuple[str, ...]:
        """What its walk up leaves beside the latents, by a Chain's names for it."""
        return () if self.scheme is None else self.scheme.leaves

    @property
    def sees_latents(self) -> bool:
        """Whether the model is evaluated at the chain's own latents, as sampling will."""
        return self.iterates if self.scheme is None else self.scheme.sees

    @property
    def most_evaluations(self) -> int:
        """Model calls that one step may take."""
        if self.scheme is not None:
            return self.scheme.rows.most
        return self.iterations if self.iterates else 1

    def walk(self, levels: Sequence[float], scaling: Scaling, like: Tensor | None = None) -> Walk:
        """What its scheme goes along. like: a latent, where there is noise to draw."""
        noise = None if like is None else drawn(self.seed, like)
        own = self.scheme.coupling
        coupling = 1.0 if own is None else own.acting(self.coupling, len(levels) - 1)
        return Walk(levels, scaling, coupling, noise)

    @property
    def remembered(self) -> int:
        """Evaluations that the next iterate is made from."""
        return {"anderson": self.window + 1, "empirical": 2}.get(self.name, 1)

    def next(self, points: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """The next iterate, from the last iterates y and their images f(y), oldest first."""
        if self.name == "empirical":
            return torch.stack([*images]).mean(dim=0)
        if self.name == "anderson" and len(images) > 1:
            return anderson_step(points, images, self.mixing)
        return images[-1]


DDIM = Solver()


def invert(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    scaling: Scaling,
    solver: Solver = DDIM,
    callback: Callable[[dict], None] | None = None,
    solved: Callable[..., None] | None = None,
) -> Inversion:
    """The walk up from x by the solver's scheme, or the inverse of Euler's (DDIM's) walk down.

    Euler's step up from sigma to the next solves y = f(y) = x + (next - sigma) d(y, next), whose
    solution Euler's step down takes back to x. The first iterate is x relabelled as a latent at
    the next sigma, so ddim is RIVAL's inversion (section 3.1; official code).

    model:  (x [B, C, H, W], sigma [B]) -> denoised [B, C, H, W]; images that have converged are
            left out of the batch.
    x:      [B, C, H, W], a clean latent: it enters as one noised to sigmas[0].
    sigmas: [S + 1], rising.
    callback: told of every evaluation. solved: told of every step when it is done, (its number
            from 1, which is its latent's; its residuals [B]): the last call was its last. By
            schemes, which solve nothing: see walk_up.
    Cost: up to S * solver.most_evaluations model calls. RivalError, naming step and iteration,
    as soon as anything is not finite.
    """
    levels = sigmas.tolist()
    x = scaling.rescale(x, 0.0, levels[0])
    if solver.scheme is not None:
        walk = solver.walk(levels, scaling, x)
        return walk_up(solver.scheme, model, x, walk, callback, solved)
    latents, all_figures = [x], []
    for i, (sigma, target) in enumerate(zip(levels, levels[1:])):
        report = Report(i, len(levels) - 1, target, callback)
        function = step_function(model, x, sigma, target, report)
        x, *figures = solve(function, scaling.rescale(x, sigma, target), solver)
        latents.append(x)
        all_figures.append(figures)
        if solved is not None:
            solved(i + 1, figures[0])
    residuals, evaluations = (torch.stack(figures) for figures in zip(*all_figures))
    return Inversion(latents, residuals, evaluations)


class Report(NamedTuple):
    """Who is told of every evaluation of one step."""

    step: int
    steps: int
    sigma: float
    callback: Callable[[dict], None] | None

    def __call__(self, iteration: int, y: Tensor, denoised: Tensor) -> None:
        check_finite(y, self.step, self.steps, iteration)
        if self.callback is not None:
            state = {"x": y, "i": self.step, "iteration": iteration, "denoised": denoised}
            self.callback({**state, "sigma": self.sigma, "sigma_hat": self.sigma})


def step_function(
    model: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: float, target: float,
    report: Report,
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """f, whose fixed point is the inverse of Euler's step from `target` down to x at sigma."""

    def function(y: Tensor, rows: Tensor, iteration: int) -> Tensor:
        denoised = model(y, y.new_full([len(y)], target))
        image = x[rows] + (target - sigma) * to_d(y, target, denoised)
        report(iteration, image, denoised)
        return image

    return function


def solve(
    function: Callable[[Tensor, Tensor, int], Tensor], start: Tensor, solver: Solver
) -> tuple[Tensor, Tensor, Tensor]:
    """The fixed points y = f(y) near start [B, ...]: (y, residual [B], evaluations [B]).

    function: (y of the rows still at work, those rows' numbers [b], iteration) -> f(y).
    """
    solution = start.clone()
    residual, spent = torch.zeros(len(start)), torch.zeros(len(start), dtype=torch.long)
    rows, y = torch.arange(len(start)), start
    points: list[Tensor] = []
    images: list[Tensor] = []
    for k in range(solver.most_evaluations):
        points, images = [*points, y], [*images, function(y, rows, k)]
        points, images = points[-solver.remembered :], images[-solver.remembered :]
        solution[rows] = solver.next(points, images)
        residual[rows] = relative_norm(images[-1] - points[-1], points[-1])
        spent[rows] += 1
        going = residual[rows] > solver.tolerance
        if not going.any():
            break
        if not going.all():
            rows = rows[going]
            points, images = [p[going] for p in points], [f[going] for f in images]
        y = solution[rows]
    return solution, residual, spent


def anderson_step(points: Sequence[Tensor], images: Sequence[Tensor], mixing: float) -> Tensor:
    """Anderson acceleration: the mix of the last iterates whose residual is smallest, per sample.

    points, images: m + 1 tensors y and f(y), [B, ...], oldest first. Regularised least squares;
    for m = 1 it is (1 - theta) f(y_n) + theta f(y_n-1), theta = <g_n, dg> / |dg|^2, g = f(y) - y.
    """
    y = torch.stack([*points], dim=1).flatten(2)  # [B, m + 1, N]
    g = torch.stack([*images], dim=1).flatten(2) - y
    dy, dg = y.diff(dim=1), g.diff(dim=1)
    # Few and tiny systems: solved in double precision, on the CPU, which every device can reach.
    gram = torch.einsum("bin,bjn->bij", dg, dg).cpu().double()
    right = torch.einsum("bin,bn->bi", dg, g[:, -1]).cpu().double()
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    ridge = RIDGE * trace + torch.finfo(torch.float64).tiny  # a zero system has the solution zero
    theta = torch.linalg.solve(gram + ridge * torch.eye(gram.shape[1]), right)
    theta = theta.to(g)[:, None]  # [B, 1, m]
    mixed = (y[:, -1:] - theta @ dy) + mixing * (g[:, -1:] - theta @ dg)
    return mixed.unflatten(2, points[0].shape[1:])[:, 0]


def relative_norm(x: Tensor, reference: Tensor) -> Tensor:
    """|x| / |reference| of each sample, [B], on the CPU."""
    norm = reference.flatten(1).norm(dim=1)
    return (x.flatten(1).norm(dim=1) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).float().cpu()
