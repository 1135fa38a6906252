"""Which attention reads longer keys, where the host's default is the slow one."""

from __future__ import annotations

import importlib

import graph
import pytest
import torch

pytestmark = pytest.mark.host
CPU = torch.device("cpu")
EMPTY = {"transformer_options": {}}


@pytest.fixture
def kernels(monkeypatch):
    """The module, its host's default being the CPU's and no flag set."""
    from comfyui_rival.nodes import host

    kernels = importlib.import_module(host.__name__ + ".kernels")
    monkeypatch.setattr(kernels, "optimized_attention", kernels.attention_sub_quad)
    monkeypatch.setattr(kernels.args, "use_quad_cross_attention", False)
    return kernels


def test_only_the_cpus_unchosen_default_is_overridden(kernels, monkeypatch):
    faster = {kernels.OVERRIDE: kernels.read_longer_keys}
    assert kernels.for_longer_keys(EMPTY, CPU) == faster
    assert kernels.for_longer_keys(EMPTY, torch.device("meta")) == {}
    theirs = {"transformer_options": {kernels.OVERRIDE: print}}
    assert kernels.for_longer_keys(theirs, CPU) == {}
    with monkeypatch.context() as flag:
        flag.setattr(kernels.args, "use_quad_cross_attention", True)
        assert kernels.for_longer_keys(EMPTY, CPU) == {}
    monkeypatch.setattr(kernels, "optimized_attention", kernels.attention_pytorch)
    assert kernels.for_longer_keys(EMPTY, CPU) == {}


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_same_attention(kernels, masked):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 32, generator=generator) for n in (12, 20))
    mask = torch.randn(12, 20, generator=generator) if masked else None
    default = kernels.attention_sub_quad
    found = kernels.read_longer_keys(default, q, k, 2 * k, 4, mask=mask)
    torch.testing.assert_close(found, default(q, k, 2 * k, 4, mask=mask), rtol=1e-5, atol=1e-6)


def test_a_run_reads_longer_keys_with_it_and_all_else_with_the_default(kernels, monkeypatch):
    import tiny

    model = tiny.build("sd15")
    empty, caption = (tiny.conditioning(model, seed) for seed in (1, 3))
    chain = graph.invert(model, tiny.latent(4, size=8), empty, steps=5)[0]
    patched, seen = graph.patch(model, chain, replace_end=0.4), []
    prompts = (caption, empty)
    expected = graph.rival_sample(patched, chain, *prompts)
    original = kernels.attention_pytorch

    def spy(q, k, *rest, **kwargs):
        seen.append((q.shape[1], k.shape[1]))
        return original(q, k, *rest, **kwargs)

    monkeypatch.setattr(kernels, "attention_pytorch", spy)
    assert torch.equal(graph.rival_sample(patched, chain, *prompts), expected)
    own = [(q, k) for q, k in seen if k == 2 * q]
    assert len(own) == 4 * len(chain.model.layers), "4 of the 5 steps lengthen the keys"
    assert all(k > q for q, k in seen)
    seen.clear()
    graph.rival_sample(model, chain, *prompts)
    assert not seen
