"""The solver uni_inv: its published scheme and order; all solvers on flows, as measured before."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.inversion.fixed_point import Solver, invert
from comfyui_rival.rival_core.inversion.scaling import FlowScaling, Scaling
from mixtures import SD, Mixture, euler, flow_sigmas, round_trip, sd_sigmas
from mixtures import slope as slope_at

UNI_INV = Solver("uni_inv")


@pytest.mark.parametrize("flow", [False, True])
def test_the_last_slope_predicts(flow):
    """The published loop, each slope taken at x + h v of the last; the first after x's own."""
    model, scaling = Mixture(flow), FlowScaling() if flow else SD
    sigmas = flow_sigmas(8, 3.0) if flow else sd_sigmas(8)
    levels = sigmas.tolist()
    x = scaling.rescale(model.data, 0.0, levels[0])
    wanted, slope = [x], slope_at(model, x, levels[0])
    for sigma, target in zip(levels, levels[1:]):
        slope = slope_at(model, x + (target - sigma) * slope, target)
        wanted.append(x := x + (target - sigma) * slope)
    found = invert(Mixture(flow), model.data, sigmas, scaling, UNI_INV)
    near = 1e-6 if flow else 1e-12  # the slope at time 0 is a difference quotient
    for latent, expected in zip(found.latents, wanted):
        torch.testing.assert_close(latent, expected, rtol=near, atol=near)


def test_it_takes_a_call_more_than_steps():
    model, calls = Mixture(), []
    found = invert(lambda x, s: calls.append(1) or model(x, s), model.data, sd_sigmas(10), SD,
                   UNI_INV)
    assert len(calls) == 11 and found.evaluations[:, 0].tolist() == [2] + 9 * [1]


@pytest.mark.parametrize("flow", [False, True])
def test_the_round_trip_is_of_order_two(flow):
    """ddim's is of order one; both cost a call a step."""
    for solver, order in ((UNI_INV, 2), (Solver("ddim"), 1)):
        sigmas = [flow_sigmas(s, 1.0) if flow else sd_sigmas(s) for s in (100, 200)]
        errors = [round_trip(solver, s, flow) for s in sigmas]
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.3, (solver.name, errors)


@pytest.mark.parametrize("steps, margin", [(10, 1), (20, 2), (50, 4)])
def test_it_is_nearer_than_ddim_on_eps_models(steps, margin):
    sigmas = sd_sigmas(steps)
    assert round_trip(UNI_INV, sigmas) * margin < round_trip(Solver("ddim"), sigmas)


def test_a_straight_flow_is_exact():
    """Where the slope never changes its prediction is the answer."""
    x = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.full_like(x, 0.3)
    sigmas = flow_sigmas(5, 3.0)
    found = invert(lambda y, s: y - s[0] * (noise - x), x, sigmas, FlowScaling(), UNI_INV)
    torch.testing.assert_close(found.latents[-1], noise)


# (steps, shift): what comes back of 5 Gaussians in 64 dimensions, from an independent measurement
# with Gaussians of its own. Its ddim at 20 unshifted steps, 1.3e-1, is above that at 10: there one
# sample fell to another Gaussian.
MEASURED = {
    (10, 1.0): {"ddim": 6.5e-2, "uni_inv": 2.4e-2, "anderson": 2.2e-5},
    (20, 1.0): {"uni_inv": 7.4e-3, "anderson": 1.2e-6},
    (10, 3.0): {"ddim": 1.1e-1, "uni_inv": 7.3e-2, "anderson": 4.9e-4},
    (20, 3.0): {"ddim": 5.3e-2, "uni_inv": 1.4e-2, "anderson": 7.3e-7},
}


@pytest.mark.parametrize("steps, shift", MEASURED)
def test_flows_come_back_as_measured(steps, shift):
    """One-call solvers to a factor of 1.5; anderson, whose error is its hardest sample's, of 10."""
    model, sigmas = Mixture(flow=True, shape=(4, 4, 4)), flow_sigmas(steps, shift)
    for name, wanted in MEASURED[steps, shift].items():
        solver = Solver(name, 5, 1e-8)
        noise = invert(model, model.data, sigmas, FlowScaling(), solver).latents[-1]
        back = euler(model, noise, sigmas.flip(0).tolist())
        error = float((back - model.data).norm() / model.data.norm())
        factor = 10 if name == "anderson" else 1.5
        assert wanted / factor < error < wanted * factor, (name, error)


def test_an_edm_model_too():
    scaling, sigmas = Scaling(80.0, 0.5), torch.logspace(-2, 1.9, 40, dtype=torch.float64)
    model = Mixture(deviation=0.5)
    errors = []
    for solver in (Solver("ddim"), UNI_INV):
        noise = invert(model, model.data, sigmas, scaling, solver)
        back = euler(model, noise.latents[-1], sigmas.flip(0).tolist())
        errors.append(float((back - noise.latents[0]).norm()))
    assert errors[1] < errors[0] / 2
