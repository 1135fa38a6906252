"""What the composition tests share: ComfyUI's own nodes, one prediction, spies."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import graph
import torch
from reference_rows import Photo
from torch import Tensor

TOLERANCE = 1e-5
REPLACE, BOTH, CONCAT = -1, 4, 2  # places in a chain of 5 steps: t = 801, 601 and 201


def remembered(function):
    """functools.cache, emptied while the host's modules are still there to free its models."""
    cached = cache(function)
    atexit.register(cached.cache_clear)
    return cached


def model_of(family: str, levels: int = 2):
    """A tiny model that tests share: clone it, never change it."""
    return _built(family, levels)


@remembered
def _built(family: str, levels: int):
    import tiny

    return tiny.build(family, levels=levels)


@remembered
def prompt(family: str, seed: int) -> list:
    import tiny

    return tiny.conditioning(model_of(family), seed)


def prompts(family: str = "sd15") -> dict[str, list]:
    """The generated rows' prompts."""
    return {"positive": prompt(family, 3), "negative": prompt(family, 4)}


def latent(seed: int, height: int = 8, width: int = 8, batch: int = 1) -> Tensor:
    """A random latent with structure, of any shape."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 4, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return smooth + 0.3 * torch.randn(batch, 4, height, width, generator=generator)


@remembered
def chain_of(
    family="sd15", seed=0, height=8, width=8, negative=False, steps=5, schedule="rival", levels=2
):
    """A photo's chain; with `negative` the unconditional rows have an exemplar of their own."""
    other = {"negative": prompt(family, 2)} if negative else {}
    samples = {"samples": latent(100 + seed, height, width)}
    widgets = {"steps": steps, "schedule": schedule}
    model = model_of(family, levels)
    return graph.invert(model, samples, prompt(family, 1), **widgets, **other)[0]


def photo(chain, place: int) -> Photo:
    """The chain's photo at one of its own sigmas."""
    return Photo(chain.latents[place][None], chain.positive, chain.negative)


def noised(chain, place: int, seed: int = 7, size=None, batch: int = 1) -> Tensor:
    """A latent in which generation could be at this place of the chain."""
    sigma = float(chain.sigmas[place])
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 4, *(size or chain.latents.shape[2:]))
    return sigma * torch.randn(shape, generator=generator) + latent(seed, *shape[2:], batch)


def run_node(node, *args, **inputs) -> tuple:
    """A node of ComfyUI, whichever way this version defines it."""
    if hasattr(node, "execute"):
        output = node.execute(*args, **inputs)
        return getattr(output, "args", output)
    return getattr(node(), node.FUNCTION)(*args, **inputs)


def guider_of(model, positive, negative=None, cfg=4.0):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(
        {"positive": positive, **({"negative": negative} if negative is not None else {})}
    )
    guider.set_cfg(cfg)
    return guider


def predict(guider, x: Tensor, sigma: float) -> Tensor:
    """One guided prediction inside a whole run of the guider."""
    import comfy.samplers

    class OneCall(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            self.denoised = model_wrap(noise, sigmas[:1].expand(len(noise)), **extra_args)
            return self.denoised

    sampler = OneCall()
    guider.sample(x, torch.zeros_like(x), sampler, torch.tensor([sigma, 0.0]), seed=0)
    return sampler.denoised


class Seen(NamedTuple):
    """One row that the model ran."""

    x: Tensor
    text: Tensor
    denoised: Tensor
    sigma: float
    call: int


@contextmanager
def watched(model) -> Iterator[list[Seen]]:
    """The list of every row that the MODEL runs meanwhile, the photo's own among them, whole."""
    from comfyui_rival.nodes import host

    base, seen, may_stop_early = model.model, [], host.may_stop_early
    original = base._apply_model

    def watch(x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        out = original(x, t, c_concat, c_crossattn, *args, **kwargs)
        number = seen[-1].call + 1 if seen else 0
        rows = zip(*(tensor.split(1) for tensor in (x, c_crossattn, out)))
        seen.extend(Seen(*row, float(t[0]), number) for row in rows)
        return out

    base._apply_model, host.may_stop_early = watch, lambda *_: False
    try:
        yield seen
    finally:
        del base._apply_model
        host.may_stop_early = may_stop_early


class Evaluation(NamedTuple):
    """One call that the pack made for exemplars."""

    x: Tensor
    sigma: float
    denoised: list
    tokens: dict  # role: {layer: Tokens}


def spied(monkeypatch) -> list[Evaluation]:
    """The list of every call that the pack will make for exemplars, which ride in no other."""
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.steering import riding

    monkeypatch.setitem(riding.REASONS, "the test says so", lambda asked: True)
    evaluate, calls = host.evaluate, []

    def spy(model, conds, x, sigma, model_options):
        out = evaluate(model, conds, x, sigma, model_options)
        recorder = model_options["transformer_options"]["rival"]
        calls.append(Evaluation(x, float(sigma), out, recorder.tokens))
        return out

    monkeypatch.setattr(host, "evaluate", spy)
    return calls


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    error = graph.relative(ours, theirs)
    assert error < tolerance, f"relative error {error:.1e}"


def assert_differ(ours: Tensor, theirs: Tensor, least: float = 1e-3) -> None:
    assert ours.isfinite().all() and theirs.isfinite().all()
    difference = graph.relative(ours, theirs)
    assert difference > least, f"they differ by {difference:.1e} only"
