"""Schedules, gates and the checks that sigmas must pass."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.schedule import (
    LogLinearTimesteps,
    TableTimesteps,
    check_sigmas,
    rival_sigmas,
    rival_timesteps,
)
from comfyui_rival.rival_core.steering.gates import Attention, Gates


def sd_table():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    return TableTimesteps(((1 - abar) / abar).sqrt().float())


def test_the_papers_timesteps():
    assert rival_timesteps(50) == list(range(1, 1000, 20))
    assert rival_timesteps(30) == [33 * i + 1 for i in range(30)]
    assert rival_timesteps(5) == [1, 201, 401, 601, 801]


@pytest.mark.parametrize("steps", [0, 4, 401, 1000])
def test_steps_without_a_usable_spacing_are_refused(steps):
    with pytest.raises(RivalError, match="sgm_uniform"):
        rival_timesteps(steps)


@pytest.mark.parametrize("steps", [5, 10, 30, 50, 333, 400])
def test_sigmas_fall_to_the_terminal_one(steps):
    table = sd_table()
    sigmas = check_sigmas(rival_sigmas(table, steps))
    assert len(sigmas) == steps + 1
    assert float(sigmas[-1]) == pytest.approx(0.02917, abs=1e-5)
    assert [table.t(s) for s in sigmas.tolist()] == [*reversed(rival_timesteps(steps)), 0]


def test_log_linear_timesteps_invert_each_other():
    timesteps = LogLinearTimesteps(0.002, 80.0)
    assert timesteps.sigma(0) == 0.002 and timesteps.sigma(1000) == pytest.approx(80.0)
    for t in (0, 1, 500, 981, 1000):
        assert timesteps.t(timesteps.sigma(t)) == pytest.approx(t, abs=1e-5)


def test_step_counts_of_the_paper():
    """50 steps, thresholds 600: 19 replace (981..621), 31 concat (601..1), 20 normalised."""
    gates, times = Gates(), rival_timesteps(50)
    replaced = [t for t in times if gates.attention(t) is Attention.REPLACE]
    joined = [t for t in times if gates.attention(t) is Attention.CONCAT]
    normalised = [t for t in times if gates.normalizes(t)]
    assert (replaced[-1], replaced[0], len(replaced)) == (981, 621, 19)
    assert (joined[-1], joined[0], len(joined)) == (601, 1, 31)
    assert (normalised[-1], normalised[0], len(normalised)) == (981, 601, 20)


@pytest.mark.parametrize("early, skipped", [(960, [981]), (900, [921, 941, 961, 981])])
def test_early_steps_are_plain(early, skipped):
    gates = Gates(inject_start=1 - early / 1000)
    plain = [t for t in rival_timesteps(50) if gates.attention(t) is Attention.PLAIN]
    assert plain == skipped
    assert all(gates.normalizes(t) for t in skipped)


@pytest.mark.parametrize("percent", [0.04, 0.1, 0.3, 0.4, 0.6, 0.7])
def test_percents_do_not_drift_by_rounding(percent):
    """1000 (1 - 0.9) is 99.99999999999997 in floats; the gate still sits on the integer."""
    t = round(1000 * (1 - percent))
    assert not Gates(normalize_end=percent).normalizes(t)
    assert Gates(normalize_end=percent).normalizes(t + 1)


@pytest.mark.parametrize("start, end", [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_empty_windows_are_legal(start, end):
    gates = Gates(inject_start=start, inject_end=end, normalize_end=0.0)
    assert all(gates.attention(t) is Attention.PLAIN for t in rival_timesteps(50))
    assert not any(gates.normalizes(t) for t in range(1001))


def test_injection_can_end_before_replacement_would():
    gates = Gates(inject_end=0.2, replace_end=0.9)
    modes = [gates.attention(t) for t in (981, 802, 801, 800, 1)]
    assert modes == [Attention.REPLACE] * 3 + [Attention.PLAIN] * 2


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
@pytest.mark.parametrize("name", ["inject_start", "replace_end", "inject_end", "normalize_end"])
def test_a_gate_outside_the_schedule_is_refused(name, value):
    with pytest.raises(RivalError, match=name):
        Gates(**{name: value})


@pytest.mark.parametrize(
    "sigmas, said",
    [
        ([1.0], "at least 2"),
        ([], "at least 2"),
        ([2.0, 1.0, -0.5], "negative"),
        ([1.0, 2.0, 0.0], "fall at every step"),
        ([2.0, 2.0, 0.0], "fall at every step"),
        ([2.0, math.nan, 0.0], "NaN"),
        ([math.inf, 1.0], "NaN or infinity"),
    ],
)
def test_sigmas_no_chain_can_follow(sigmas, said):
    with pytest.raises(RivalError, match=said):
        check_sigmas(torch.tensor(sigmas))
