"""How wide a chain's noise is, where the model and with it the answer are known in closed form."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.chain.report import TOO_WIDE, chain_notices
from comfyui_rival.rival_core.chain.statistics import noise_width
from comfyui_rival.rival_core.inversion.fixed_point import Solver, invert
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from made_chains import make_chain

pytestmark = pytest.mark.any_host

EVEN = torch.linspace(0, 1, 11)
SHORT_LAST = torch.cat([torch.tensor([0.0, 0.002, 0.005, 0.01, 0.02, 0.035, 0.06]), EVEN[1:]])


def gaussian_chain(deviation: float, sigmas: torch.Tensor, solver: str = "anderson") -> Chain:
    """Of a flow model whose pictures are white noise of this deviation, for one such picture."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        share, noise = 1 - float(sigma[0]), float(sigma[0])
        return x * share * deviation**2 / (share**2 * deviation**2 + noise**2)

    generator = torch.Generator().manual_seed(0)
    photo = deviation * torch.randn(1, 4, 32, 32, generator=generator, dtype=torch.float64)
    solver = Solver(solver, iterations=50, tolerance=1e-9)
    inverted = invert(denoise, photo, sigmas, FlowScaling(), solver)
    return Chain(sigmas, **inverted.of_chain(), scaling=FlowScaling(),
                 model=ModelCard("Flux", "Flux", ()), positive=[], solver=solver, schedule="simple")


@pytest.mark.parametrize("deviation", [0.06, 0.1, 0.5])
def test_the_lowest_level_is_as_wide_as_derived(deviation):
    """Undone exactly, the last step gives sigma / ((1 - sigma) s); the levels above keep it."""
    chain = gaussian_chain(deviation, EVEN)
    widths = [noise_width(chain, place) for place in range(1, 11)]
    assert widths[0] == pytest.approx(0.1 / (0.9 * deviation), rel=0.03)
    if deviation == 0.06:
        assert all(width == pytest.approx(widths[0], rel=0.25) for width in widths)


def test_short_last_steps_make_it_nearly_plain():
    wide, plain = (noise_width(gaussian_chain(0.06, s), -1) for s in (EVEN, SHORT_LAST))
    assert wide > 1.8 and plain < 1.2


def test_the_chain_says_so_and_what_helps():
    chain = gaussian_chain(0.06, EVEN)
    [said] = chain_notices(chain)
    assert "1.84 times" in said and "(sigma 0.1)" in said and "choose the schedule beta" in said
    [said] = chain_notices(dataclasses.replace(chain, schedule="beta"))
    assert "choose" not in said and said.endswith("; raise steps")


def test_other_chains_say_nothing():
    assert noise_width(gaussian_chain(0.1, EVEN)) < TOO_WIDE
    for chain in (gaussian_chain(0.1, EVEN), gaussian_chain(0.06, SHORT_LAST),
                  gaussian_chain(0.06, EVEN, "ddim"), make_chain(solver="ddim")):
        assert chain_notices(chain) == []
