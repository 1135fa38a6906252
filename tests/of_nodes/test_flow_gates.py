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


def test_rival_stays_the_papers_for_unets_sampled_as_flows(model):
    import tiny
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.inversion.schedule import rival_sigmas

    flow, given = sampled(model, "SD3"), (tiny.latent(2, size=8), tiny.conditioning(model, 1))
    chain, _ = graph.invert(flow, *given, steps=5)
    wanted = rival_sigmas(host.timesteps_of(flow), 5)
    assert chain.schedule == "rival" and chain.falling_sigmas().tolist() == wanted.tolist()
    assert chain.top < 0.95
    for steps in (3, 401):
        with pytest.raises(ValueError, match=f"^RIVAL Invert: .*5 to 400 steps, not {steps}"):
            graph.invert(flow, *given, steps=steps)


def resampled(model, sampling, **settings):
    """The model behind a node that sets a sampling of these of the host's classes."""
    made = type("Made", sampling, {})(model.model.model_config)
    for name, value in settings.items():
        setattr(made, name, value)
    model = model.clone()
    model.add_object_patch("model_sampling", made)
    return model


@pytest.mark.parametrize("kind, said", [
    ("COSMOS_RFLOW", "SD3 with the model sampling ModelSamplingCosmosRFlow, COSMOS_RFLOW is not"),
    ("EPS", "SD3 with the model sampling ModelSamplingDiscrete, EPS is not supported, for only fl"),
    ("noise", "the model's noise is scaled by 8, which is not supported: set noise_scale to 1"),
])
def test_transformers_sampled_otherwise_are_refused(kind, said):
    import comfy.model_sampling as classes
    import tiny_dits

    made = {
        "COSMOS_RFLOW": ((classes.ModelSamplingCosmosRFlow, classes.COSMOS_RFLOW), {}),
        "EPS": ((classes.ModelSamplingDiscrete, classes.EPS), {}),
        "noise": ((classes.ModelSamplingDiscreteFlow, classes.CONST), {"noise_scale": 8.0}),
    }
    model = tiny_dits.build("sd3")
    other = resampled(model, made[kind][0], **made[kind][1])
    given = tiny_dits.latent(model), tiny_dits.conditioning(model)
    with pytest.raises(ValueError, match=rf"^RIVAL Invert: {said}"):
        graph.invert(other, *given, steps=2)
    chain, _ = graph.invert(model, *given, steps=2)
    with pytest.raises(ValueError, match=rf"^RIVAL KSampler: {said}"):
        graph.rival_sample(other, chain, given[1], given[1])
