"""Timesteps and gates of models sampled as flows, by the host's own sampling classes."""

from __future__ import annotations

from types import SimpleNamespace

import graph
import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def model():
    import tiny

    return tiny.build("sd15", levels=1)


def sampled(model, name: str):
    """The model behind one of the host's nodes that set a flow's sampling."""
    from comfy_extras import nodes_model_advanced as nodes

    settings = {"SD3": (3.0,), "AuraFlow": (1.73,), "Flux": (1.15, 0.5, 1024, 1024)}[name]
    node = getattr(nodes, f"ModelSampling{name}")()
    return getattr(node, node.FUNCTION)(model, *settings)[0]


@pytest.mark.parametrize("name", ["SD3", "AuraFlow", "Flux"])
@pytest.mark.parametrize("steps, before", [(4, 2), (8, 4), (20, 8), (28, 12)])
def test_a_gate_is_a_share_of_the_steps(model, name, steps, before):
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.steering.gates import Attention, Gates

    flow = sampled(model, name)
    timesteps, gates = host.timesteps_of(flow), Gates()
    sigmas = host.scheduler_sigmas(flow, "simple", steps)[:-1].tolist()
    rules = [gates.attention(timesteps.t(sigma), timesteps.slack) for sigma in sigmas]
    assert rules == [Attention.REPLACE] * before + [Attention.CONCAT] * (steps - before)


def test_a_run_compares_a_flows_percents(model):
    """A hair below the gate counts as below it; the official counter is a whole timestep off."""
    import tiny
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.steering.run import Run
    from comfyui_rival.rival_core.steering.exemplar import Exemplar
    from comfyui_rival.rival_core.steering.gates import Attention

    flow = sampled(model, "SD3")
    chain, _ = graph.invert(flow, tiny.latent(2, size=8), tiny.conditioning(flow, 1), steps=5)
    run = Run([Exemplar(chain)], SimpleNamespace(model_patcher=flow))
    timesteps = host.timesteps_of(flow)
    below, above = (run.at(timesteps.sigma(t)).steering for t in (600.5, 599.5))
    assert below.rules == (Attention.REPLACE,) and above.rules == (Attention.CONCAT,)
    assert len(below.normalizers) == 1 and not above.normalizers


@pytest.mark.parametrize("name", ["SD3", "Flux"])
@pytest.mark.parametrize("start", ["shuffle", "inverted"])
def test_noise_and_sigmas_are_the_sampler(model, name, start):
    """SamplerCustomAdvanced scales noise as the host does for flows, from pure noise to the end."""
    import tiny

    flow = sampled(model, name)
    prompts = [tiny.conditioning(flow, seed) for seed in (1, 2)]
    chain, _ = graph.invert(flow, tiny.latent(2, size=8), prompts[0], steps=4, schedule="simple")
    assert chain.top == 1.0 and float(chain.sigmas[0]) == 0.0
    ours = graph.rival_sample(flow, chain, *prompts, seed=3, start=start)
    theirs = graph.core_sample(flow, chain, *prompts, seed=3, start=start)
    assert graph.relative(ours, theirs) < 1e-6
