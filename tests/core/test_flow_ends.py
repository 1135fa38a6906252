"""Flow models at sigma 1, which is pure noise, and at sigma 0, which is the image."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.chain.statistics import assumed, measured
from comfyui_rival.rival_core.inversion.ancestral import ancestral_step
from comfyui_rival.rival_core.inversion.fixed_point import ITERATING, Solver, invert
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from comfyui_rival.rival_core.sampling.guidance import Keep
from comfyui_rival.rival_core.sampling.inpainting import Inpainting
from comfyui_rival.rival_core.sampling.noise import noise_of, partial_latents
from comfyui_rival.rival_core.sampling.partial_noise import sample_euler_partial
from mixtures import Mixture

FLOW = FlowScaling()
LEVELS = (0.0, 0.25, 0.8, 1.0)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def straight():
    """(chain, photo, noise): a chain on the straight line between them, both ends on it."""
    photo, noise = random(1, 1, 4, 6, 6), random(2, 1, 4, 6, 6)
    latents = torch.cat([(1 - s) * photo + s * noise for s in LEVELS])
    card = ModelCard("SD15", "SD15", ())
    return Chain(torch.tensor(LEVELS), latents, FLOW, card, positive=[]), photo, noise


def test_the_chain_at_its_ends_and_between(straight):
    chain, photo, noise = straight
    assert torch.equal(chain.at(0.0), photo) and torch.equal(chain.clean, photo)
    assert torch.equal(chain.at(1.0), noise) and torch.equal(chain.at(1.1), noise)
    for sigma in (0.1, 0.5, 0.9):
        torch.testing.assert_close(chain.at(sigma), (1 - sigma) * photo + sigma * noise)


@pytest.mark.parametrize("sigma", LEVELS[1:])
def test_partial_starts(straight, sigma):
    chain, photo, noise = straight
    torch.testing.assert_close(noise_of(chain, sigma), noise, rtol=1e-4, atol=1e-5)
    start = partial_latents(chain, sigma, [0], 0, "inverted")
    torch.testing.assert_close(start, (1 - sigma) * photo + sigma * noise)
    other = random(5, 1, 4, 6, 6)
    start = partial_latents(chain, sigma, [0], 0, "inverted", other)
    torch.testing.assert_close(start, (1 - sigma) * other + sigma * noise)


@pytest.mark.parametrize("sigma", LEVELS)
def test_what_is_known_and_kept(straight, sigma):
    chain, photo, noise = straight
    mask, other = torch.ones(1, 1, 6, 6), random(6, 1, 4, 6, 6)
    mask[..., :3] = 0
    known = Inpainting(chain, photo, mask, other).known(sigma)
    torch.testing.assert_close(known, (1 - sigma) * photo + sigma * noise)
    known = Inpainting(chain, other, mask, noise).known(sigma)
    torch.testing.assert_close(known, (1 - sigma) * other + sigma * noise)
    keep = Keep(chain, mask[0])
    torch.testing.assert_close(keep.leave(chain.at(sigma), other, sigma)[..., :3], photo[..., :3])


def test_the_distribution_at_the_ends(straight):
    chain, photo, noise = straight
    own, plain = measured(chain), assumed(chain)
    torch.testing.assert_close(own.mean[0], photo[0].mean((1, 2)))
    torch.testing.assert_close(plain.std[0], photo[0].std((1, 2), correction=0))
    torch.testing.assert_close(own.mean[-1], noise[0].mean((1, 2)))
    assert plain.mean[-1].tolist() == [0.0] * 4 and plain.std[-1].tolist() == [1.0] * 4


def test_what_the_host_scales():
    """It makes (1 - sigma) image + sigma noise, and takes the first share out at the end."""
    assert [FLOW.noise_scale(s) for s in LEVELS] == [*LEVELS]
    assert FLOW.end_scale(0.0) == 1.0 and FLOW.end_scale(0.2) == 1.25


@pytest.mark.parametrize("name", ["ddim", *ITERATING])
def test_every_solver_goes_from_one_end_to_the_other(name):
    model = Mixture(flow=True)
    sigmas = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = invert(model, model.data, sigmas, FLOW, Solver(name, 4))
    assert torch.equal(found.latents[0], model.data)
    assert all(torch.isfinite(x).all() for x in found.latents) and torch.isfinite(
        found.residuals).all()


# --- fresh noise ----------------------------------------------------------------------------------


def test_a_flows_step_is_the_eps_models_in_other_coordinates():
    """x / (1 - sigma) is an eps model's latent at the level sigma / (1 - sigma)."""
    for sigma, target, eta in ((0.9, 0.7, 0.4), (0.5, 0.1, 1.0), (0.999, 0.99, 0.2)):
        down, kept, up = ancestral_step(sigma, target, eta, FLOW)
        levels = [s / (1 - s) for s in (sigma, target)]
        eps_down, _, eps_up = ancestral_step(*levels, eta)
        assert down / (1 - down) == pytest.approx(eps_down)
        assert kept == pytest.approx((1 - target) / (1 - down))
        assert up == pytest.approx((1 - target) * eps_up)


def test_the_same_walk_in_both_coordinates():
    times = torch.tensor([0.95, 0.8, 0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
    fresh = [random(i, 60, 4, 2, 2).double() for i in range(5)]
    start = random(9, 60, 4, 2, 2).double()
    walk = partial(sample_euler_partial, noise_at=fresh.__getitem__, stochastic=lambda s: True,
                   eta=0.6)
    in_time = walk(Mixture(flow=True), start, times, scaling=FLOW)
    in_sigma = walk(Mixture(), start / 0.05, times / (1 - times))
    torch.testing.assert_close(in_time, in_sigma)


@pytest.mark.parametrize("target", [0.9, 0.5, 0.0])
def test_fresh_noise_from_pure_noise(target):
    """At sigma 1 the level is endless: eta 1 forgets the latent, and 0 is Euler's step."""
    assert ancestral_step(1.0, target, 0.0, FLOW) == pytest.approx((target, 1.0, 0.0))
    assert ancestral_step(1.0, target, 1.0, FLOW) == pytest.approx((0.0, 1 - target, target))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_marginal_stays_that_of_the_data(eta):
    """Data N(0, 1): with the exact denoiser the walk from sigma 1 to 0 ends at unit variance."""
    generator = torch.Generator().manual_seed(0)
    sigmas = torch.linspace(1, 0, 301, dtype=torch.float64)
    x = torch.randn(2000, 1, 4, 4, generator=generator, dtype=torch.float64)
    result = sample_euler_partial(
        lambda x, s: x * (1 - s[0]) / ((1 - s[0]) ** 2 + s[0] ** 2), x, sigmas,
        lambda i: torch.randn(x.shape, generator=generator, dtype=torch.float64),
        lambda sigma: True, eta, scaling=FLOW)
    assert float(result.std()) == pytest.approx(1.0, abs=0.04)
