"""Watching what a MODEL is asked, without changing it."""

from __future__ import annotations

from contextlib import contextmanager


@contextmanager
def model_rows(model, fail_at=None, error=RuntimeError):
    """A list that receives (rows, sigma) of every network call; may raise at the n-th call."""
    base, calls = model.model, []
    original = base._apply_model

    def watched(x, t, *args, **kwargs):
        calls.append((len(x), float(t[0])))
        if fail_at is not None and len(calls) == fail_at:
            raise error("stopped by the test")
        return original(x, t, *args, **kwargs)

    base._apply_model = watched
    try:
        yield calls
    finally:
        del base._apply_model


@contextmanager
def failing(module, at, error):
    """Inside it the module's n-th call raises before it begins."""
    calls = []

    def raising(module, inputs):
        calls.append(module)
        if len(calls) == at:
            raise error("stopped by the test")

    hook = module.register_forward_pre_hook(raising)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def exemplar_calls(monkeypatch):
    """A list that receives (x, sigma, denoised) of every exemplar that ran, whatever the call."""
    from comfyui_rival.rival_core.steering.step import Step

    calls, original = [], Step.keep

    def watched(self, chain, x, denoised, tokens):
        calls.append((x.clone(), self.sigma, [*denoised.values()]))
        return original(self, chain, x, denoised, tokens)

    monkeypatch.setattr(Step, "keep", watched)
    yield calls


@contextmanager
def live_runs():
    """A list of weak references to every Run that sampling creates."""
    import weakref

    from comfyui_rival.nodes.steering import run as alignment

    runs, original = [], alignment.Run.__init__

    def watched(self, *args, **kwargs):
        original(self, *args, **kwargs)
        runs.append(weakref.ref(self))

    alignment.Run.__init__ = watched
    try:
        yield runs
    finally:
        alignment.Run.__init__ = original


@contextmanager
def key_lengths(model):
    """{layer: the lengths of the keys of every generated call}, while a patched model samples.

    The photos run apart meanwhile: where they ride, keys are lengthened only after they are made.
    """
    from comfy.ldm.modules.attention import BasicTransformerBlock

    unet, found, hooks = model.model.diffusion_model, {}, []
    groups = {"input": unet.input_blocks, "middle": [unet.middle_block],
              "output": unet.output_blocks}
    for name, blocks in groups.items():
        for number, block in enumerate(blocks):
            inside = [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
            for depth, transformer in enumerate(inside):
                lengths = found[(name, number), depth] = []

                def watch(module, given, lengths=lengths):
                    if len(given[0]) > 1:  # the exemplar runs alone
                        lengths.append(given[0].shape[1])

                hooks.append(transformer.attn1.to_k.register_forward_pre_hook(watch))
    try:
        with photos_apart():
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def answers(model):
    """A list that receives what the network answered in every call, [rows, ...]."""
    base, found = model.model, []
    original = base._apply_model

    def watched(*args, **kwargs):
        found.append(original(*args, **kwargs))
        return found[-1]

    base._apply_model = watched
    try:
        yield found
    finally:
        del base._apply_model


@contextmanager
def photos_apart():
    """Inside it, no photo's row rides in the rows' call."""
    from unittest import mock

    from comfyui_rival.nodes.steering import riding

    with mock.patch.dict(riding.REASONS, {"the test says so": lambda asked: True}):
        yield
