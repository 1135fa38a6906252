"""Every sampler that the host has, along a chain."""

from __future__ import annotations

import graph
import pytest
import torch

pytestmark = [pytest.mark.host, pytest.mark.sampled]


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.calm(tiny.build("sd15", levels=1))  # else dpm_adaptive takes hundreds of steps
    prompt = tiny.conditioning(model, 1)
    chain, _ = graph.invert(model, tiny.latent(2, size=8), prompt, steps=5)
    return graph.patch(model, chain), chain, prompt


def pytest_generate_tests(metafunc):
    """The host's own list, where there is a host."""
    if "sampler" in metafunc.fixturenames:
        found = metafunc.config.rival_host
        names = _sampler_names() if found else ["euler"]
        metafunc.parametrize("sampler", names)


def _sampler_names() -> list[str]:
    from comfyui_rival.nodes import host

    return list(host.SAMPLERS)


def test_a_sampler_stops_at_the_terminal_sigma_only_if_it_draws_no_noise(setup, sampler):
    """From one start latent, another seed changes the result exactly of samplers that draw."""
    from comfyui_rival.nodes import host

    patched, chain, prompt = setup

    def run(seed):
        return graph.rival_sample(
            *(patched, chain, prompt, prompt),
            seed=seed,
            cfg=1.0,
            sampler_name=sampler,
            start="inverted",
        )

    first, second = run(0), run(1)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second) == (sampler in host.NOISELESS)
    if sampler not in host.NOISELESS:
        assert torch.equal(first, run(0)), "the same seed must give the same latent"
