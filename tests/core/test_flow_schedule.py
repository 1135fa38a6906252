"""The schedule and the gates of flow models: percents, whatever bends sigma between 1 and 0."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.inversion.schedule import FlowTimesteps, rival_sigmas
from comfyui_rival.rival_core.steering.gates import Attention, Gates


def by_shift(shift: float):
    """As SD3 and AuraFlow shift: sigma of a percent."""
    return clipped(lambda u: shift * u / (1 + (shift - 1) * u))


def by_exponent(mu: float):
    """As Flux shifts: e^mu against the odds of the percent."""
    return clipped(lambda u: math.exp(mu) / (math.exp(mu) + (1 / u - 1)))


def clipped(of_time):
    return lambda p: 1.0 if p <= 0 else 0.0 if p >= 1 else of_time(1 - p)


BENT = {
    "shift 1": by_shift(1.0), "shift 3": by_shift(3.0), "shift 8": by_shift(8.0),
    "Flux": by_exponent(1.15), "Flux2": by_exponent(2.02),
    "a curve without a formula here": clipped(lambda u: math.sin(u * math.pi / 2) ** 2),
}
bent = pytest.mark.parametrize("percent_to_sigma", BENT.values(), ids=BENT)


@bent
def test_percents_and_sigmas_invert_each_other(percent_to_sigma):
    timesteps = FlowTimesteps(percent_to_sigma)
    for t in (0, 1, 250, 600, 999, 1000):
        assert timesteps.sigma(t) == percent_to_sigma(1 - t / 1000)
        assert timesteps.t(timesteps.sigma(t)) == pytest.approx(t, abs=1e-6)
    assert timesteps.t(1.0) == timesteps.t(7.0) == 1000.0
    assert timesteps.t(0.0) == timesteps.t(-1.0) == 0.0


@bent
def test_a_float32_sigma_knows_its_percent_within_the_slack(percent_to_sigma):
    timesteps = FlowTimesteps(percent_to_sigma)
    for i in range(1, 100):
        sigma = float(torch.tensor(percent_to_sigma(i / 100), dtype=torch.float32))
        assert abs(timesteps.t(sigma) - 1000 * (1 - i / 100)) < timesteps.slack


@bent
@pytest.mark.parametrize("steps, before", [(4, 2), (8, 4), (20, 8), (28, 12)])
def test_a_gate_is_a_share_of_the_steps_whatever_bends_them(percent_to_sigma, steps, before):
    """Steps evenly spaced in percent: so many are below 0.4."""
    timesteps, gates = FlowTimesteps(percent_to_sigma), Gates()
    sigmas = torch.tensor([percent_to_sigma(i / steps) for i in range(steps)])
    times = [timesteps.t(sigma) for sigma in sigmas.tolist()]
    rules = [gates.attention(t, timesteps.slack) for t in times]
    assert rules == [Attention.REPLACE] * before + [Attention.CONCAT] * (steps - before)
    normalised = [gates.normalizes(t, timesteps.slack) for t in times]
    assert normalised == [True] * before + [False] * (steps - before)


@bent
@pytest.mark.parametrize("start, end, inside", [
    (0.0, 1.0, range(20)), (0.2, 0.7, range(4, 14)), (0.05, 0.1, [1]), (0.21, 0.24, []),
    (0.5, 0.5, []), (0.7, 0.2, []),
])  # fmt: skip
def test_the_window_has_its_start_and_not_its_end(percent_to_sigma, start, end, inside):
    timesteps = FlowTimesteps(percent_to_sigma)
    gates = Gates(inject_start=start, inject_end=end)
    sigmas = torch.tensor([percent_to_sigma(i / 20) for i in range(20)]).tolist()
    rules = [gates.attention(timesteps.t(sigma), timesteps.slack) for sigma in sigmas]
    assert [i for i, rule in enumerate(rules) if rule is not Attention.PLAIN] == [*inside]


def test_the_papers_timesteps_on_a_flow():
    """What `rival` means for an SD network that is sampled as a flow: top and bottom inside."""
    sigmas = rival_sigmas(FlowTimesteps(by_shift(3.0)), 50)
    times = [981 - 20 * i for i in range(50)] + [0]
    assert torch.allclose(sigmas, torch.tensor([3 * t / (1000 + 2 * t) for t in times]), atol=1e-7)
