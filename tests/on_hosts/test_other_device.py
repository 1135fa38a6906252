"""Where the model is on another device than chains, prompts and masks, as on every GPU.

Each setting runs on the CPU and on a pretended device, and gives the same.
"""

from __future__ import annotations

import functools

import composing
import graph
import pretend_device
import pytest
import torch
from composing import prompt, remembered

pytestmark = pytest.mark.host
CPU, MOST = torch.device("cpu"), 8 << 30
SIZE = (8, 10)


@pytest.fixture(scope="module")
def device():
    try:
        return pretend_device.register()
    except AttributeError:
        pytest.skip("this PyTorch takes no devices written in Python")


@pytest.fixture(autouse=True)
def host_with_it(device, monkeypatch):
    """The host believes in it as in a GPU."""
    import comfy.model_management as management

    def free(dev=None, torch_free_too=False):
        return (MOST, MOST) if torch_free_too else MOST

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "get_torch_device", lambda: device)


def new_model_on(device):
    import tiny

    model = tiny.calm(tiny.build("sd15"), share=0.1)
    model.model.to(device)
    model.load_device = model.offload_device = device
    return model


model_on = remembered(new_model_on)


@remembered
def chain_on(device, seed=0, negative=False, **widgets):
    inputs = {"negative": prompt("sd15", 2)} if negative else {}
    photo = {"samples": composing.latent(100 + seed, *SIZE)}
    widgets = {"steps": 2, "schedule": "sgm_uniform", **widgets}
    return graph.invert(model_on(device), photo, prompt("sd15", 1), **widgets, **inputs)[0]


def left() -> torch.Tensor:
    mask = torch.zeros(1, *SIZE)
    mask[..., :5] = 1
    return mask


def varied(device, chain=None, sampler=None, **patch):
    chain = chain or chain_on(device)
    model = graph.patch(model_on(device), chain, **patch)
    return graph.rival_sample(model, chain, *composing.prompts().values(), **(sampler or {}))


def kept(device, features="cached", handed_over=False):
    """The first run, which stores, and the second, which reads."""
    small = torch.tensor([14.6, 13.9, 13.2])  # steps that are soon solved
    solver = {"solver": "anderson", "iterations": 6, "features": features, "sigmas": small}
    chain = graph.invert(
        model_on(device), {"samples": composing.latent(100, *SIZE)}, prompt("sd15", 1), steps=2,
        schedule="sgm_uniform", **(solver if handed_over else {}),
    )[0]  # fmt: skip
    assert len(chain.features.rows) == (chain.steps if handed_over else 0)
    runs = [varied(device, chain, features=features) for _ in range(2)]
    places = {t.device for row in chain.features.rows.values() for t in row.tensors()}
    return torch.cat(runs), places


def kept_where_the_model_is(device, **how):
    samples, places = kept(device, **how)
    assert places == {device}
    return samples


def kept_in_ram(device):
    from comfyui_rival.nodes import host

    room = host.room_for_features
    host.room_for_features = lambda *args: room(*args)[-1:]
    try:
        samples, places = kept(device)
    finally:
        host.room_for_features = room
    assert places == {CPU}
    return samples


def moved_to_ram(device):
    """The device's memory runs out where the second step runs the photo."""
    import comfy.model_management as management
    import spies

    chain = chain_on(device, seed=1)
    with spies.model_rows(model_on(device), 3, management.OOM_EXCEPTION):
        samples = varied(device, chain, features="cached")
    places = {t.device for row in chain.features.rows.values() for t in row.tensors()}
    assert places == {CPU}
    return samples


def with_the_photos_lora(device):
    """LoRA hooks on the photo's prompt, at a strength that changes on the way."""
    import loras

    model = new_model_on(device)  # its weights change
    text = loras.hooked(prompt("sd15", 1), loras.hook_lora(loras.STRENGTHS))
    photo, widgets = {"samples": composing.latent(100, *SIZE)}, {"schedule": "sgm_uniform"}
    chain, _ = graph.invert(model, photo, text, steps=2, **widgets)
    model = graph.patch(model, chain)
    return graph.rival_sample(model, chain, *composing.prompts().values())


def two_photos(device):
    one, two = chain_on(device), chain_on(device, seed=1)
    model = graph.patch(model_on(device), one, mask=left())
    model = graph.patch(model, two, mask=1 - left(), exemplar_mask=left())
    return graph.rival_sample(model, one, *composing.prompts().values())


def filled(device, seed):
    """A hole in the photo, or in another image."""
    hole = {"samples": composing.latent(seed, *SIZE), "noise_mask": left()[:, None]}
    return varied(device, sampler={"latent": hole})


def guided(device):
    from comfyui_rival.nodes import RivalBlendedGuidance

    model = graph.patch(model_on(device), chain_on(device))
    model = RivalBlendedGuidance.execute(
        model, outside=0.5, keep_photo=True, prompt="", words="", threshold=0.3, blur=1.0,
        resolution="auto", mask=left(), chain=chain_on(device),
    ).args[0]  # fmt: skip
    return graph.rival_sample(model, chain_on(device), *composing.prompts().values())


def reconstructed(device):
    from comfyui_rival.nodes import RivalReconstruct

    return RivalReconstruct.execute(model_on(device), chain_on(device)).args[0]["samples"]


def pulled(device):
    model = graph.pull(model_on(device), chain=chain_on(device), mask=left(), end=1.0,
                       keep_similar=0.5)  # fmt: skip
    return graph.rival_sample(model, chain_on(device), *composing.prompts().values())


def edited(device):
    photo = {"samples": composing.latent(100, *SIZE), "noise_mask": left()[:, None]}
    prompts = [prompt("sd15", 1), *composing.prompts().values()]
    return graph.edit(model_on(device), photo, *prompts, steps=2, change=1.0, cfg=2.0,
                      mask=left(), batch_size=2)["samples"]  # fmt: skip


def by_core(device):
    chain = chain_on(device)
    model = graph.patch(model_on(device), chain)
    return graph.core_sample(model, chain, *composing.prompts().values(), size=(6, 8)).cpu()


WALKED = {"sampler_name": "chain", "start": "inverted"}
SETTINGS = {
    "the chain": lambda device: chain_on(device).latents,
    "an exact chain": lambda device: chain_on(device, solver="anderson", iterations=4).latents,
    "walked by edict": lambda device: varied(device, chain_on(device, solver="edict"), WALKED),
    "walked by edit_friendly": lambda device: varied(
        device, chain_on(device, solver="edit_friendly"), WALKED),
    "defaults": varied,
    "a batch of another size": lambda device: varied(
        device, sampler={"batch_size": 2, "latent": {"samples": torch.zeros(1, 4, 6, 6)}}),
    "two rows": lambda device: varied(device, chain_on(device, negative=True)),
    "masks": functools.partial(varied, mask=left(), exemplar_mask=1 - left(), strength=0.6),
    "a LoRA of the photo's": with_the_photos_lora,
    "two photos": two_photos,
    "quarter": functools.partial(varied, exemplar_keys="quarter"),
    "cached": kept_where_the_model_is,
    "cached_int8": functools.partial(kept_where_the_model_is, features="cached_int8"),
    "cached, handed over": functools.partial(kept_where_the_model_is, handed_over=True),
    "cached, in RAM": kept_in_ram,
    "cached, moved to RAM": moved_to_ram,
    "a hole in the photo": functools.partial(filled, seed=100),
    "a hole in another image": functools.partial(filled, seed=7),
    "denoise": lambda device: varied(device, sampler={"denoise": 0.7}),
    "eta": lambda device: varied(device, sampler={"eta": 0.6}),
    "gaussian start": lambda device: varied(device, sampler={"start": "gaussian"}),
    "blended guidance": guided,
    "reconstruct": reconstructed,
    "core's sampler": by_core,
    "pull": pulled,
    "edit": edited,
}  # fmt: skip


ON_EVERY_HOST = ("defaults", "a LoRA of the photo's", "cached", "reconstruct", "core's sampler",
                 "edit")  # fmt: skip


@pytest.mark.parametrize("name", [
    *ON_EVERY_HOST,
    *(pytest.param(n, marks=pytest.mark.any_host) for n in SETTINGS if n not in ON_EVERY_HOST),
])
@torch.inference_mode()
def test_it_gives_what_the_cpu_gives(name, device):
    expected, got = SETTINGS[name](CPU), SETTINGS[name](device)
    assert got.device == CPU and torch.isfinite(got).all()
    assert graph.relative(got, expected) < 1e-3


def test_devices_are_kept_apart(device):
    here, there = torch.ones(2, 2), torch.ones(2, 2, device=device)
    for mix in (torch.add, torch.matmul, lambda a, b: torch.cat([a, b])):
        with pytest.raises(RuntimeError, match=r"two devices|on pretend and on cpu"):
            mix(here, there)


def test_views_and_copies_are_the_cpus(device):
    """Else what the settings show would be the pretended device's own."""

    def heads(t):
        return t[:, 2:].reshape(2, 4, 2, 4).permute(0, 2, 1, 3).reshape(4, 4, 4).mT

    def put(t):
        t = t.clone()
        t[0, :, 3:] = 5
        t[:, 2:].mT[..., 1] *= 2
        t[torch.tensor([1])] = t[:1].clone()
        return t

    def multiplied(t):
        return t[:, 1:5].mT[..., 1:] @ t[:1, 2:].expand(2, -1, -1)[:, :3]

    x = torch.randn(2, 6, 8)
    for function in (heads, put, multiplied):
        assert torch.equal(function(x.to(device)).cpu(), function(x))
