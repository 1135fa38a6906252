"""Core's MultiGPU CFG Split: the rows of one call, dealt out between two devices."""

from __future__ import annotations

import composing
import graph
import pretend_device
import pytest
import spies
import torch
from composing import prompt

pytestmark = pytest.mark.host
MAIN = torch.device("cpu")


@pytest.fixture(scope="module")
def core():
    return pytest.importorskip("comfy.multigpu", reason="this ComfyUI splits nothing")


@pytest.fixture(scope="module")
def extra():
    try:
        return pretend_device.register()
    except AttributeError:
        pytest.skip("this PyTorch takes no devices written in Python")


@pytest.fixture(autouse=True)
def two_devices(core, extra, monkeypatch):
    """What the host has, as it believes; both have room."""
    import comfy.model_management as management

    def free(device=None, torch_free_too=False):
        return (8 << 30, 8 << 30) if torch_free_too else 8 << 30

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "get_all_torch_devices", lambda *_, **__: [MAIN, extra])


def model_on(device):
    import tiny

    model = tiny.build("sd15", levels=1)
    model.model.to(device)
    model.load_device = model.offload_device = device
    return model


@pytest.fixture(scope="module")
def base(core, extra):
    """A model as a loader gives it: it says how the same one is loaded on another device."""
    model = model_on(MAIN)
    model.cached_patcher_init = (lambda: model_on(extra), ())
    return model


@pytest.fixture(scope="module")
def photo(base):
    chain, _ = graph.invert(
        base, {"samples": composing.latent(100)}, prompt("sd15", 1), steps=3, schedule="sgm_uniform"
    )
    return chain


def sampled(model, chain):
    return graph.rival_sample(model, chain, *composing.prompts().values())


@pytest.mark.parametrize(("features", "of_the_photo"), [("live", 1), ("cached", 0)])
@pytest.mark.parametrize("first", ["patch", "split"])
@torch.inference_mode()
def test_two_devices_give_what_one_gives(first, features, of_the_photo, core, base, photo):
    """The photo's row is the main device's, in a call of its own; kept features need none."""

    def patch(model):
        return graph.patch(model, photo, features=features)

    def split(model):
        return core.create_multigpu_deepclones(model, 2)

    alone = sampled(patch(base), photo)
    model = split(patch(base)) if first == "patch" else patch(split(base))
    (other,) = model.get_additional_models_with_key("multigpu")
    with spies.model_rows(model) as here, spies.model_rows(other) as there:
        got = sampled(model, photo)
    assert graph.relative(got, alone) < 3e-5
    assert [rows for rows, _ in here] == [1] * (of_the_photo + 1) * photo.steps
    assert [rows for rows, _ in there] == [1] * photo.steps
