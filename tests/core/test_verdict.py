"""How well an inversion went, in a word and before the figures."""

from __future__ import annotations

import pytest
import torch
from comfyui_rival.rival_core.chain.report import summary, verdict
from made_chains import make_chain

pytestmark = pytest.mark.any_host


def chain(worst: float, solver: str = "anderson", cfg: float = 1.0):
    residuals = torch.tensor([1e-6, worst, 1e-5, 1e-6, 1e-6, 1e-6])
    return make_chain(solver=solver, cfg=cfg, residuals=residuals)


@pytest.mark.parametrize("worst, word", [(0.0, "well"), (0.04, "well"), (0.05, "fairly"),
                                         (0.09, "fairly"), (0.11, "poorly"),
                                         (float("inf"), "poorly"), (float("nan"), "poorly")])
def test_the_worst_step_decides(worst, word):
    for solver in ("ddim", "anderson", "fixed_point"):
        assert verdict(chain(worst, solver)) == word
        assert summary(chain(worst, solver)).startswith(f"inverted {word}: 6 steps, ")


def test_guidance_lets_the_same_residual_weigh_more():
    """On the way back a guided step's error grows."""
    assert [verdict(chain(0.02, cfg=cfg)) for cfg in (0.5, 1.0, 3.0, 7.0)] == [
        "well", "well", "fairly", "poorly"]


@pytest.mark.parametrize("solver", ["obelm", "bdia", "edict", "edit_friendly"])
def test_an_exact_scheme_went_well_at_any_guidance(solver):
    assert summary(make_chain(solver=solver, cfg=7.0)).startswith("inverted well: ")


@pytest.mark.parametrize("solver", ["uni_inv", "midpoint", "fireflow", "rf_inversion"])
def test_where_nothing_was_judged_nothing_is_claimed(solver):
    said = summary(make_chain(solver=solver))
    assert verdict(make_chain(solver=solver)) == "" and said.startswith("6 steps, ")
    assert said.endswith(f"{solver}: how well, RIVAL Reconstruct says")


def test_a_guess_that_went_badly_says_what_is_nearer():
    assert summary(chain(0.2, "ddim")).endswith("; anderson, or more steps, is nearer")
    assert "nearer" not in summary(chain(0.2)) and "nearer" not in summary(chain(0.01, "ddim"))
