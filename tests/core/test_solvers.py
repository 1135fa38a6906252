"""The inversion solvers on models whose answers are known (AIDI; methods measured in float64)."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import (
    ITERATING,
    Solver,
    anderson_step,
    invert,
    solve,
)
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from mixtures import SD, Mixture, round_trip, sd_sigmas

EULER = ("ddim", *ITERATING)  # whose way down is Euler's


def exact(name: str, iterations: int, **more) -> Solver:
    return Solver(name, iterations, 0.0, **more)


def test_ten_steps_come_back_with_anderson_and_not_with_ddim():
    sigmas = sd_sigmas(10)
    assert round_trip(Solver("ddim"), sigmas) > 0.1
    assert round_trip(exact("anderson", 5), sigmas) < 2e-3


def test_the_solvers_rank_as_measured():
    """Few steps: anderson, then plain iteration and empirical, then ddim (methods, section 6)."""
    for steps in (10, 20, 50):
        sigmas = sd_sigmas(steps)
        ddim, plain, empirical, anderson = (
            round_trip(exact(name, 5), sigmas)
            for name in ("ddim", "fixed_point", "empirical", "anderson")
        )
        assert anderson < plain / 10 and anderson < empirical / 10
        assert max(plain, empirical) < ddim / 5


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_n_iterations_are_of_order_n(iterations):
    """At large step counts doubling the steps divides the round trip's error by 2^n."""
    errors = [round_trip(exact("fixed_point", iterations), sd_sigmas(s)) for s in (100, 200)]
    order = math.log2(errors[0] / errors[1])
    assert abs(order - iterations) < 0.25, order


def test_one_iteration_is_ddim_bitwise():
    model = Mixture()
    sigmas = sd_sigmas(10)
    ddim = invert(model, model.data, sigmas, SD)
    for name in ITERATING:
        one = invert(model, model.data, sigmas, SD, exact(name, 1))
        assert all(torch.equal(a, b) for a, b in zip(one.latents, ddim.latents))


@pytest.mark.parametrize("name", EULER)
def test_evaluations_are_counted_exactly(name):
    model = Mixture()
    inverted = invert(model, model.data, sd_sigmas(10), SD, exact(name, 4))
    calls = 4 if name in ITERATING else 1
    assert len(model.rows) == 10 * calls
    assert (inverted.evaluations == calls).all()
    assert inverted.residuals.shape == inverted.evaluations.shape == (10, 60)


@pytest.mark.parametrize("name", ITERATING)
def test_each_sample_stops_on_its_own(name):
    """Converged images leave the batch; what they keep is what they get alone."""
    model, sigmas, solver = Mixture(), sd_sigmas(20), Solver(name, 30, 1e-5)
    together = invert(model, model.data[:6], sigmas, SD, solver)
    assert int(together.evaluations.sum()) == sum(model.rows)
    assert (together.residuals <= 1e-5).all()
    assert together.evaluations.float().std(dim=1).max() > 0, "all of them stopped as one"
    for i in (0, 5):
        alone = invert(Mixture(), model.data[i : i + 1], sigmas, SD, solver)
        assert torch.equal(alone.evaluations[:, 0], together.evaluations[:, i])
        torch.testing.assert_close(alone.latents[-1][0], together.latents[-1][i],
                                   rtol=1e-9, atol=1e-9)


def test_residuals_are_those_of_the_last_evaluation():
    def halve(y, rows, k):
        return y / 2

    start = torch.full([1, 4, 2, 2], 8.0)
    solution, residual, spent = solve(halve, start, Solver("fixed_point", 3, 0.0))
    assert torch.equal(solution, start / 8)
    assert (residual.item(), spent.item()) == (0.5, 3)


def test_anderson_solves_a_line_at_once():
    """Along one direction two points determine the fixed point of an affine map."""
    direction = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    fixed = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def function(y, rows, k):
        return fixed - 3.0 * (y - fixed)  # plain iteration runs away

    start = fixed + direction
    solution, *_ = solve(function, start, exact("anderson", 2))
    torch.testing.assert_close(solution, fixed, rtol=0, atol=1e-5)  # the ridge
    runaway, *_ = solve(function, start, exact("fixed_point", 2))
    assert (runaway - fixed).norm() > 8 * direction.norm()


def test_the_two_point_mean_settles_what_oscillates():
    fixed = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def function(y, rows, k):
        return 2 * fixed - y

    start = fixed + torch.randn(1, 4, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(solve(function, start, exact("empirical", 2))[0], fixed)
    torch.testing.assert_close(solve(function, start, exact("fixed_point", 2))[0], start)


def test_a_wider_window_solves_a_plane():
    generator = torch.Generator().manual_seed(1)
    plane = torch.linalg.qr(torch.randn(16, 2, generator=generator, dtype=torch.float64))[0]
    matrix = plane @ torch.tensor([[1.5, 0.4], [-0.7, -2.0]], dtype=torch.float64) @ plane.T

    def function(y, rows, k):
        return (y.flatten(1) @ matrix.T).view_as(y)

    start = (plane @ torch.tensor([1.0, 2.0], dtype=torch.float64)).view(1, 4, 2, 2)
    narrow, wide = (
        solve(function, start, exact("anderson", 4, window=m))[0].norm() for m in (1, 2)
    )
    assert wide < 1e-4 < narrow


def test_anderson_leaves_a_fixed_point_alone():
    y = torch.randn(2, 4, 2, 2)
    assert torch.equal(anderson_step([y, y], [y, y], 1.0), y)


def test_half_mixing_goes_half_the_way():
    y, f = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    other, image = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    whole = anderson_step([y, other], [f, image], 1.0)
    half = anderson_step([y, other], [f, image], 0.5)
    theta = 0.5  # g = (1, 0), then (0, 1)
    point = theta * y + (1 - theta) * other
    torch.testing.assert_close(half, (whole + point) / 2)


@pytest.mark.parametrize("name", EULER)
def test_flow_models(name):
    """The same algebra in a flow's coordinates: x_s + (t - s) v(x_t, t)."""
    times = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    error = round_trip(exact(name, 6), times, flow=True)
    assert error > 0.02 if name == "ddim" else error < 2e-3


def test_a_flow_ends_where_it_began():
    """A narrow flow's chain is a straight line: the first iterate is the exact answer's."""
    fixed = torch.full([1, 4, 2, 2], 0.7, dtype=torch.float64)
    x = fixed.clone()
    latents = invert(lambda y, t: fixed.expand_as(y), x, torch.tensor([0.0, 0.5, 0.9]),
                     FlowScaling()).latents
    assert torch.equal(latents[0], x) and torch.equal(latents[-1], x)


@pytest.mark.parametrize("name", EULER)
def test_nan_names_its_step_and_iteration(name):
    model, sigmas = Mixture(), sd_sigmas(10)
    last = 3 if name in ITERATING else 1
    bad_call = 2 * last + last  # the last evaluation of step 3

    def breaks(x, sigma):
        denoised = model(x, sigma)
        return denoised * math.nan if len(model.rows) == bad_call else denoised

    with pytest.raises(RivalError, match=rf"step 3 of 10, iteration {last}: .*float32"):
        invert(breaks, model.data, sigmas, SD, exact(name, 3))


def test_every_evaluation_is_reported():
    model, seen = Mixture(), []
    invert(model, model.data, sd_sigmas(10), SD, exact("anderson", 3), seen.append)
    assert [(s["i"], s["iteration"]) for s in seen] == [(i, k) for i in range(10) for k in range(3)]


@pytest.mark.parametrize("wrong", [
    {"name": "newton"}, {"iterations": 0}, {"tolerance": -1e-3}, {"tolerance": math.nan},
    {"window": 0}, {"mixing": 0.0}, {"mixing": 1.5},
])
def test_settings_that_make_no_solver(wrong):
    with pytest.raises(RivalError, match=r"give|choose"):
        Solver(**{"name": "anderson", **wrong})
