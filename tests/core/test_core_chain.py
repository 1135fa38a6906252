"""The chain between its levels, start latents, and inversion on a closed-form model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import invert, to_d
from comfyui_rival.rival_core.inversion.scaling import Scaling
from comfyui_rival.rival_core.sampling.guidance import Keep
from comfyui_rival.rival_core.sampling.noise import STARTS, start_latents
from comfyui_rival.rival_core.steering.exemplar import Exemplar, in_order
from comfyui_rival.rival_core.steering.normalization import statistics

SD = Scaling(sigma_max=14.6146)
CARD = ModelCard("SD15", "SD15", ())


def make_chain(sigmas=(0.03, 0.1, 0.7, 3.0, 12.0), scaling=SD, size=(5, 7)):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(len(sigmas), 4, *size, generator=generator)
    return Chain(torch.tensor(sigmas), latents, scaling, CARD, positive=[])


class Gaussian:
    """Data N(mu, s^2 I): x(sigma) = mu + sqrt((s^2 + sigma^2) / (s^2 + tau^2)) (x(tau) - mu)."""

    def __init__(self, mean=0.3, s=0.5):
        self.mean, self.s2 = mean, s * s
        self.calls = []

    def __call__(self, x, sigma):
        self.calls.append(float(sigma[0]))
        return self.mean + self.s2 / (self.s2 + sigma[0] ** 2) * (x - self.mean)

    def flow(self, x, sigma, target):
        ratio = (self.s2 + target**2) / (self.s2 + sigma**2)
        return self.mean + math.sqrt(ratio) * (x - self.mean)


def geometric(steps, low=0.03, high=14.0):
    return torch.logspace(math.log10(low), math.log10(high), steps + 1, dtype=torch.float64)


def test_the_chain_at_its_own_sigmas_is_bitwise_the_stored_latent():
    chain = make_chain()
    for sigma, latent in zip(chain.sigmas.tolist(), chain.latents):
        assert torch.equal(chain.at(sigma)[0], latent)


def test_between_levels_the_chain_is_linear_in_sigma():
    chain = make_chain()
    middle = chain.at((0.7 + 3.0) / 2)
    assert torch.allclose(middle[0], (chain.latents[2] + chain.latents[3]) / 2, atol=1e-6)


def test_beyond_its_ends_the_chain_is_rescaled_and_held():
    chain = make_chain()
    scale = math.sqrt((1 + 14.0**2) / (1 + 12.0**2))
    assert torch.allclose(chain.at(14.0)[0], chain.latents[-1] * scale)
    assert torch.equal(chain.at(0.001)[0], chain.latents[0])
    assert torch.equal(chain.at(0.0)[0], chain.latents[0])


def test_edm_rescales_with_its_own_sigma_data():
    edm = Scaling(sigma_max=80.0, sigma_data=0.5)
    x = torch.ones(1)
    expected = math.sqrt((0.25 + 9.0) / (0.25 + 1.0))
    assert float(edm.rescale(x, 1.0, 3.0)) == pytest.approx(expected)


def test_noise_scale_is_the_hosts():
    assert SD.noise_scale(3.0) == 3.0
    assert SD.noise_scale(14.6146) == pytest.approx(math.sqrt(1 + 14.6146**2))
    assert SD.noise_scale(20.0) == pytest.approx(math.sqrt(1 + 400.0))


def test_falling_sigmas_end_at_zero_once():
    chain = make_chain()
    assert chain.falling_sigmas().tolist() == sorted(chain.sigmas.tolist(), reverse=True)
    assert chain.falling_sigmas(True).tolist()[-1] == 0.0
    at_zero = make_chain(sigmas=(0.0, 1.0, 2.0))
    assert at_zero.falling_sigmas(True).tolist() == [2.0, 1.0, 0.0]


def test_a_chain_is_never_deep_copied():
    chain = make_chain()
    assert copy.deepcopy({"held": chain})["held"] is chain
    assert chain.get_ram_usage() == chain.latents.nbytes + chain.sigmas.nbytes


def test_what_travels_is_short_in_words():
    """Hosts print a failed node's inputs."""
    long = replace(make_chain(), positive=[[torch.zeros(1, 77, 768), {"text": 999 * "x"}]])
    mask = torch.ones(1, 512, 512)
    every = frozenset((("input", i), 0) for i in range(99))
    for value in (long, Exemplar(long, layers=every, seen=mask, mask=mask), Keep(long, mask)):
        assert len(str(value)) < 300 and "tensor" not in str(value)
    assert str(long) == "<RIVAL chain: SD15, 4 steps (rival, ddim), latent 7 x 5, 4 channels>"


def test_chains_that_keep_gradients_are_put_in_order():
    chains = [make_chain(), make_chain((0.03, 0.1, 5.0))]
    a, b = (Exemplar(replace(c, latents=c.latents.requires_grad_())) for c in chains)
    assert in_order([a, b]) == in_order([b, a])


def test_ddim_pairs_the_cleaner_latent_with_the_target_sigma():
    model = Gaussian()
    sigmas = torch.tensor([0.03, 1.0, 4.0], dtype=torch.float64)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    latents = invert(model, x, sigmas, SD).latents
    assert model.calls == [1.0, 4.0]
    entered = x * math.sqrt(1 + 0.03**2)
    assert torch.equal(latents[0], entered)
    seen = entered * math.sqrt((1 + 1.0) / (1 + 0.03**2))
    expected = entered + (1.0 - 0.03) * to_d(seen, 1.0, Gaussian()(seen, torch.ones(1)))
    assert torch.allclose(latents[1], expected)


def test_ddim_inversion_is_of_first_order():
    """Doubling the steps halves the error against the closed-form end of the chain."""
    x = torch.linspace(-2, 2, 36, dtype=torch.float64).reshape(1, 4, 3, 3)
    errors = []
    for steps in (50, 100, 200, 400):
        model, sigmas = Gaussian(), geometric(steps)
        entered = SD.rescale(x, 0.0, float(sigmas[0]))
        exact = model.flow(entered, float(sigmas[0]), float(sigmas[-1]))
        errors.append(float((invert(model, x, sigmas, SD).latents[-1] - exact).norm()))
    ratios = [a / b for a, b in zip(errors, errors[1:])]
    assert all(1.8 < ratio < 2.2 for ratio in ratios), ratios


def test_shuffle_keeps_every_channel_vector():
    end = make_chain().end
    started = start_latents(end, (5, 7), [0, 1], 3, "shuffle")
    vectors = {tuple(v) for v in end.flatten(2)[0].T.tolist()}
    for item in started:
        assert {tuple(v) for v in item.flatten(1).T.tolist()} == vectors
    assert not torch.equal(started[0], started[1])
    assert not torch.equal(started, start_latents(end, (5, 7), [0, 1], 4, "shuffle"))


def test_another_size_draws_channel_vectors_with_replacement():
    end = make_chain().end
    started = start_latents(end, (9, 4), [0], 3, "shuffle")
    assert started.shape == (1, 4, 9, 4)
    vectors = {tuple(v) for v in end.flatten(2)[0].T.tolist()}
    assert {tuple(v) for v in started[0].flatten(1).T.tolist()} <= vectors


def test_gaussian_start_has_the_ends_statistics():
    end = 2.0 + 3.0 * make_chain(size=(64, 64)).end
    drawn = statistics(start_latents(end, (128, 128), [0], 3, "gaussian"))
    wanted = statistics(end)
    assert torch.allclose(drawn.mean, wanted.mean, atol=0.1)
    assert torch.allclose(drawn.var, wanted.var, rtol=0.05)


def test_inverted_start_is_the_end_and_needs_its_size():
    end = make_chain().end
    assert torch.equal(start_latents(end, (5, 7), [0], 3, "inverted"), end)
    with pytest.raises(RivalError, match="exemplar's size"):
        start_latents(end, (7, 5), [0], 3, "inverted")


@pytest.mark.parametrize("start", STARTS)
def test_a_draw_is_the_same_in_any_batch(start):
    end = make_chain().end
    batch = start_latents(end, (5, 7), range(4), 11, start)
    for j in range(4):
        assert torch.equal(start_latents(end, (5, 7), [j], 11, start)[0], batch[j])
    assert torch.equal(start_latents(end, (5, 7), [3, 1], 11, start), batch[[3, 1]])
