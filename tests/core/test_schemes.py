"""The inversion schemes where the slope is known: ways back, orders, limits."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import SOLVERS, Solver, invert
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from comfyui_rival.rival_core.inversion.scheme import Walk
from comfyui_rival.rival_core.inversion.schemes import SCHEMES, check_family
from comfyui_rival.rival_core.inversion.walks import walk_down, walk_up
from mixtures import (
    SD,
    Mixture,
    euler,
    flow_sigmas,
    relative,
    sd_sigmas,
    slope,
    start_at,
    there_and_back,
)

EXACT = [name for name, scheme in SCHEMES.items() if scheme.exact]
FLOW, STEPS = FlowScaling(), 10
LEVELS = sd_sigmas(STEPS)


def serves(name: str, flow: bool) -> bool:
    return SCHEMES[name].flow in (None, flow)


BOTH = [(name, flow) for name in SCHEMES for flow in (False, True) if serves(name, flow)]


def levels_of(flow: bool, steps: int = 12) -> torch.Tensor:
    """Uneven ones; of a flow from 0 to 1."""
    return flow_sigmas(steps, 3.0) if flow else sd_sigmas(steps)


# --- what each is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name, flow", [pair for pair in BOTH if pair[0] in EXACT])
def test_the_way_back_is_exact(name, flow):
    """From the top, and from a level below it, where both directions must agree on who is first."""
    for steps in (1, 2, 7, 12):
        levels = levels_of(flow, max(steps, 5))[-steps - 1 :]
        found, back = there_and_back(Solver(name), levels, flow)
        assert relative(back, found.latents[0]) < 1e-12, steps
    for place in (1, 6, 7):
        found, back = there_and_back(Solver(name), levels_of(flow), flow, place)
        assert relative(back, found.latents[0]) < 1e-12, place


@pytest.mark.parametrize("name, flow", BOTH)
def test_calls_are_as_said_and_at_the_latents_where_it_says_so(name, flow):
    model, levels = Mixture(flow), levels_of(flow)
    scheme, solver, seen = SCHEMES[name], Solver(name), []
    found = invert(model, model.data, levels, FLOW if flow else SD, solver, seen.append)
    steps = len(levels) - 1
    assert len(model.rows) == len(seen) == sum(scheme.rows.of(steps))
    assert found.evaluations[:, 0].tolist() == scheme.rows.of(steps)
    assert found.evaluations.shape == (steps, 60) and found.residuals is None
    told = [(state["i"], state["iteration"]) for state in seen]
    assert told == [(i, k) for i, n in enumerate(scheme.rows.of(steps)) for k in range(n)]
    at_levels = [(state["x"], levels.tolist().index(state["sigma"])) for state in seen
                 if state["sigma"] in levels.tolist()]
    at_latents = [torch.equal(x, found.latents[place]) for x, place in at_levels if place]
    assert (bool(at_latents) and all(at_latents)) == scheme.sees


@pytest.mark.parametrize("name", ["obelm", "bdia"])
def test_the_second_latent_spares_a_call(name):
    found, _ = there_and_back(Solver(name), LEVELS)
    for below, calls in ((found.latents[-2], STEPS - 1), (None, STEPS)):
        model, walk = Mixture(), Solver(name).walk(LEVELS.tolist(), SD)
        start = start_at(found, STEPS)._replace(below=below)
        walk_down(SCHEMES[name], model, start, walk)
        assert len(model.rows) == calls


@pytest.mark.parametrize("name", ["obelm", "bdia", "edict"])
def test_without_what_the_way_up_left_a_walk_starts_as_a_plain_sampler(name):
    """By Euler's step; EDICT's pair as one latent."""
    found, _ = there_and_back(Solver(name), LEVELS)
    x = found.latents[-1]
    walk = Solver(name).walk(LEVELS.tolist(), SD)
    plain = walk_down(SCHEMES[name], Mixture(), start_at(found, STEPS)._replace(
        below=None, partner=None), walk)
    pair = euler(Mixture(), x, LEVELS.flip(0).tolist()[:2])
    given = start_at(found, STEPS)._replace(below=pair, partner=x)
    assert torch.equal(plain, walk_down(SCHEMES[name], Mixture(), given, walk))


@cache
def end(name: str, flow: bool, steps: int) -> torch.Tensor:
    """The noise that a walk between the same ends comes to."""
    log = torch.linspace(math.log(0.03), math.log(14.6), steps + 1, dtype=torch.float64)
    levels, scaling = (flow_sigmas(steps, 3.0), FLOW) if flow else (log.exp(), SD)
    model = Mixture(flow)
    return invert(model, model.data, levels, scaling, Solver(name)).latents[-1].flatten(1)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name, order", [("obelm", 2), ("bdia", 2), ("midpoint", 2),
                                         ("fireflow", 2)])
def test_orders(name, order, flow):
    """Of the noise, against a walk so fine that nothing is left."""
    errors = [float((end(name, flow, s) - end("midpoint", flow, 1600)).norm(dim=1).median())
              for s in (100, 200)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.25, errors


def test_midpoint_is_rf_solver():
    """Its second-order Taylor step, x + h v + h^2/2 (v_mid - v) / (h/2), to the last bits."""
    levels, model = levels_of(True).tolist(), Mixture(flow=True)
    x = model.data
    for a, b in zip(levels, levels[1:]):
        v = slope(model, x, a)
        middle = slope(model, x + (b - a) / 2 * v, a + (b - a) / 2)
        x = x + (b - a) * v + 0.5 * (b - a) ** 2 * (middle - v) / ((b - a) / 2)
    found = invert(model, model.data, levels_of(True), FLOW, Solver("midpoint"))
    assert relative(found.latents[-1], x) < 1e-7  # the slope at time 0 is a difference quotient


def test_fireflow_takes_the_last_slope_for_the_first():
    levels, model = levels_of(True).tolist(), Mixture(flow=True)
    x, v = model.data, slope(model, model.data, 0.0)
    for a, b in zip(levels, levels[1:]):
        v = slope(model, x + (b - a) / 2 * v, (a + b) / 2)
        x = x + (b - a) * v
    found = invert(model, model.data, levels_of(True), FLOW, Solver("fireflow"))
    assert relative(found.latents[-1], x) < 1e-7


def test_bdia_of_1_on_even_flow_levels_is_the_leapfrog():
    levels, model = flow_sigmas(10), Mixture(flow=True)
    x = invert(model, model.data, levels, FLOW, Solver("bdia")).latents
    for i in range(1, 10):
        leap = x[i - 1] + 2 * 0.1 * slope(model, x[i], float(levels[i]))
        torch.testing.assert_close(x[i + 1], leap, rtol=1e-10, atol=1e-10)


def deviation(name: str, acting: float, steps: int) -> float:
    """Of the noise, in units of its level, with a coupling that acts so in each step."""
    levels = sd_sigmas(steps).tolist()
    x = SD.rescale(Mixture().data, 0.0, levels[0])
    found = walk_up(SCHEMES[name], Mixture(), x, Walk(levels, SD, acting))
    return float(found.latents[-1].std()) / SD.level(levels[-1])


@pytest.mark.parametrize("name, coupling", [("bdia", 0.94), ("edict", 0.93)])
def test_the_coupling_is_meant_for_50_steps(name, coupling):
    """The same in each step lets the noise grow with their number; spread out it stays near 1."""
    assert deviation(name, coupling, 200) > 50
    for steps in (50, 200):
        acting = Solver(name, coupling=coupling).walk([*range(steps + 1)], SD).coupling
        assert acting == pytest.approx(coupling ** (50 / steps))
        assert 0.8 < deviation(name, acting, steps) < 1.2


def test_rf_inversion_between_eulers_walk_and_its_noise():
    model, levels = Mixture(flow=True), levels_of(True).tolist()
    noise = torch.randn(model.data.shape, generator=torch.Generator().manual_seed(5)).double()
    free, bound, half = (
        walk_up(SCHEMES["rf_inversion"], model, model.data, Walk(levels, FLOW, g, lambda: noise))
        for g in (0.0, 1.0, 0.5))
    x = model.data
    for a, b in zip(levels, levels[1:]):
        x = x + (b - a) * slope(model, x, a)
    assert relative(free.latents[-1], x) < 1e-6 and relative(bound.latents[-1], noise) < 1e-12
    x = half.latents[3]
    v, drawn = slope(model, x, levels[3]), (noise - x) / (1 - levels[3])
    wanted = x + (levels[4] - levels[3]) * (v + 0.5 * (drawn - v))
    torch.testing.assert_close(half.latents[4], wanted)
    own = invert(model, model.data, levels_of(True), FLOW, Solver("rf_inversion", seed=5))
    assert torch.equal(own.latents[-1], half.latents[-1]), "its own coupling is 0.5"
    back = walk_down(SCHEMES["rf_inversion"], model, start_at(half, 12), Walk(levels, FLOW, 0.5))
    torch.testing.assert_close(back, euler(model, half.latents[-1], levels[::-1]))


def test_the_maps_of_a_model_that_knows_the_photo():
    """x = x0 + sigma n everywhere: the map of variance (s'^2 + down^2) / (s'^2 - down^2)."""
    photo = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = invert(lambda x, sigma: photo.expand_as(x), photo, LEVELS, SD,
                   Solver("edit_friendly", seed=1))
    for place, drawn in enumerate(found.noise, 1):
        high, low = float(LEVELS[place]), float(LEVELS[place - 1])
        down = low**2 / high
        spread = math.sqrt((low**2 + down**2) / (low**2 - down**2)) if place > 1 else None
        if spread:  # the lowest latent has no noise
            assert float(drawn.std()) == pytest.approx(spread, rel=0.03)
    apart = torch.stack([(x - photo) / s for x, s in zip(found.latents[1:], LEVELS[1:])]).flatten(1)
    assert (torch.corrcoef(apart) - torch.eye(STEPS)).abs().max() < 0.05, "noises are not apart"


def edit_friendly(seed: int):
    return invert(Mixture(), Mixture().data, LEVELS, SD, Solver("edit_friendly", seed=seed))


def test_edit_friendly_latents_are_the_photo_under_the_seeds_own_noises():
    """As every chain's at the lowest level; above it the photo itself is in them, unscaled."""
    data, generator = Mixture().data, torch.Generator().manual_seed(6)
    found = edit_friendly(6).latents
    torch.testing.assert_close(found[0], data * math.sqrt(1 + float(LEVELS[0]) ** 2))
    for x, sigma in zip(found[1:], LEVELS[1:]):
        drawn = torch.randn(data.shape, generator=generator).double()
        torch.testing.assert_close(x, data + sigma * drawn, rtol=1e-12, atol=1e-12)


def test_seeds():
    one, same, other = (edit_friendly(seed).latents[-1] for seed in (1, 1, 2))
    assert torch.equal(one, same) and relative(one, other) > 0.5


@pytest.mark.parametrize("name", ["obelm", "bdia", "midpoint", "fireflow"])
def test_a_walk_that_begins_at_0(name):
    """An eps model is told the next level there, as in O-BELM's code; and no slope is 0 / 0."""
    levels = torch.cat([torch.zeros(1, dtype=torch.float64), LEVELS])
    found, back = there_and_back(Solver(name), levels)
    data = Mixture().data
    first = slope(Mixture(), SD.rescale(data, 0.0, float(LEVELS[0])), float(LEVELS[0]))
    if SCHEMES[name].exact:
        torch.testing.assert_close(found.latents[1], data + float(LEVELS[0]) * first)
    assert relative(back, data) < (1e-12 if SCHEMES[name].exact else 0.2)


def test_edit_friendly_comes_back_to_0_too():
    levels = torch.cat([torch.zeros(1, dtype=torch.float64), LEVELS])
    found, back = there_and_back(Solver("edit_friendly"), levels)
    assert torch.equal(found.latents[0], Mixture().data) and relative(back, Mixture().data) < 1e-12
    below, x, sigma = *found.latents[:2], float(levels[1])
    torch.testing.assert_close(found.noise[0], below - (x - sigma * slope(Mixture(), x, sigma)))


@pytest.mark.parametrize("name", ["obelm", "edict", "edit_friendly"])
def test_in_float32_a_guided_and_a_long_walk_come_back(name):
    """The way back knows nothing of what the slope is: here one of no model's."""
    def wild(x, sigma):
        return Mixture()(x.double(), sigma).float() * 2 - x.sin()

    levels, x = sd_sigmas(50).tolist(), Mixture().data.float()
    solver = Solver(name)
    found = walk_up(SCHEMES[name], wild, x, solver.walk(levels, SD, x))
    back = walk_down(SCHEMES[name], wild, start_at(found, 50), solver.walk(levels, SD))
    assert relative(back, x) < 1e-4


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver, coupling", [
    ("bdia", 0.89), ("bdia", 1.01), ("edict", 0.5), ("edict", 1.5), ("rf_inversion", -0.1),
    ("rf_inversion", math.nan),
])  # fmt: skip
def test_couplings_that_a_method_cannot_have(solver, coupling):
    with pytest.raises(RivalError, match=r"^coupling is .*: give"):
        Solver(solver, coupling=coupling)


def test_couplings_that_are_fine():
    for name, coupling in (("bdia", 0.9), ("edict", 0.51), ("edict", 1.0), ("rf_inversion", 1.0),
                           *((name, 0.0) for name in SOLVERS), ("ddim", 0.3)):
        Solver(name, coupling=coupling)


@pytest.mark.parametrize("solver, is_flow, fits", [
    ("rf_inversion", False, False), ("rf_inversion", True, True), ("edit_friendly", True, False),
    ("edit_friendly", False, True), ("obelm", True, True), ("ddim", False, True),
])  # fmt: skip
def test_families(solver, is_flow, fits):
    if fits:
        return check_family(solver, is_flow)
    with pytest.raises(RivalError, match=f"^the solver {solver} is .*flow models.*choose obelm"):
        check_family(solver, is_flow)


@pytest.mark.parametrize("name, call, said", [
    ("obelm", 3, "step 3 of 10, iteration 1"), ("edict", 4, "step 2 of 10, iteration 2"),
])  # fmt: skip
def test_nan_names_its_step(name, call, said):
    model = Mixture()

    def breaks(x, sigma):
        denoised = model(x, sigma)
        return denoised * (math.nan if len(model.rows) == call else 1.0)

    with pytest.raises(RivalError, match=f"NaN or infinity at {said}: .*float32"):
        invert(breaks, model.data, LEVELS, SD, Solver(name))
