"""A UNet inside a module of another node: torch.compile's by object patch, and others like it."""

from __future__ import annotations

import graph
import pytest
import torch
from composing import chain_of, latent, model_of, prompt, prompts

pytestmark = pytest.mark.host


class Named(torch.nn.Module):
    """A wrapper as other packs have them."""

    def __init__(self, unet):
        super().__init__()
        self.inner, self.dtype = unet, unet.dtype
        self.adapter = torch.nn.LayerNorm(2)

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Hidden(torch.nn.Module):
    """A wrapper that shows nobody what it runs."""

    def __init__(self, unet):
        super().__init__()
        self.run, self.dtype = [unet], unet.dtype

    def forward(self, *args, **kwargs):
        return self.run[0](*args, **kwargs)


class Two(Named):
    def __init__(self, unet):
        super().__init__(unet)
        self.other = model_of("sd2_eps").model.diffusion_model


def compiled(unet):
    return torch.compile(unet, backend="eager")


@pytest.fixture(scope="module", autouse=True)
def no_compiling():
    """torch.compile's module is there, and runs what is in it: compiling takes half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def wrapped(model, wrapper):
    model = model.clone()
    model.add_object_patch("diffusion_model", wrapper(model.get_model_object("diffusion_model")))
    return model


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize("wrapper", [compiled, Named])
def test_a_wrapped_unet_is_the_unet(wrapper, caplog):
    """Before RIVAL Patch Model or after it; also while it is what hangs in the loaded model."""
    base, chain = model_of("sd15"), chain_of()
    expected = graph.rival_sample(graph.patch(base, chain), chain, **prompts())
    before = wrapped(base, wrapper)
    again, _ = graph.invert(before, {"samples": latent(100)}, prompt("sd15", 1), steps=5)
    assert torch.equal(again.latents, chain.latents) and again.model == chain.model
    for steered in (graph.patch(before, chain), wrapped(graph.patch(base, chain), wrapper)):
        assert torch.equal(graph.rival_sample(steered, again, **prompts()), expected)
    assert "was inverted with" not in caplog.text
    graph.rival_sample(graph.patch(base, again), again, **prompts())
    assert "was inverted with" not in caplog.text


@pytest.mark.parametrize("wrapper", [Hidden, Two])
def test_what_cannot_be_looked_into_is_named(wrapper):
    model, said = wrapped(model_of("sd15"), wrapper), f"another node put a {wrapper.__name__} in"
    with pytest.raises(ValueError, match=f"^RIVAL Invert: {said}.*: remove that node.$"):
        graph.invert(model, {"samples": latent(1)}, prompt("sd15", 1), steps=5)
    late = wrapped(graph.patch(model_of("sd15"), chain_of()), wrapper)
    with pytest.raises(ValueError, match=f"^RIVAL KSampler: {said}"):
        graph.rival_sample(late, chain_of(), **prompts())


def test_the_hooks_are_not_compiled():
    """What they keep changes at every call, and each change would compile them anew."""
    from comfyui_rival.nodes.host.unet import Lending, Recording
    from comfyui_rival.nodes.steering.recorder import Recorder

    layer = (("input", 1), 0)
    options = {"block": layer[0], "block_index": layer[1], "uuids": ["a"]}

    @torch.compile(backend="eager")
    def block(x, recording):
        return recording(x, x, x, options)[1] + 1

    x, recorder = torch.ones(1, 16, 8), Recorder({"a": "positive"}, {layer})
    recording = Recording(recorder)
    once = torch._dynamo.config.patch(error_on_recompile=True)
    with torch.compiler.set_stance("default"), once:
        block(x, recording)
        block(x, recording)
    assert torch.equal(recorder.tokens["positive"][layer].context, x)
    assert Lending.__call__._torchdynamo_disable and Lending.blend._torchdynamo_disable
