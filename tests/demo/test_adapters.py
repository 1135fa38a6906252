"""The demo model's LoRA and ControlNet: core loads all of them and runs what was trained.

The files belong to the repository: where they are missing, these tests fail.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from graph import relative

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import assemble
import concept
import control
import diffusion
import latents
import train_adapters
from autoencoder import Autoencoder, start_as_mosaic
from low_rank import changes
from scenes import make_scene
from training import CPU, NEVER, TINY, FewCaptions

pytestmark = pytest.mark.host
FILES = {name: assemble.WEIGHTS / f"{name}.safetensors" for name in ("concept", "control")}


@pytest.fixture(scope="module")
def model(host):
    """The demo model's MODEL, as core's loader gives it."""
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(assemble.checkpoint()), output_vae=False,
                                                 output_clip=False)[0]


def randomized(adapter: torch.nn.Module) -> torch.nn.Module:
    """As training might leave it: none of its changes is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter.requires_grad_(False)


def batch(n: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents [n, 4, 16, 16], timesteps and text [n, 77, 768]."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 4, 16, 16, generator=generator), torch.tensor([900.0, 100.0])[:n],
            torch.randn(n, 77, 768, generator=generator))


def hints() -> torch.Tensor:
    return control.outlines([make_scene(1), make_scene(2)])


def loaded_control(tensors: dict, model):
    """The network that core's ControlNet loader makes of a file for this model."""
    import comfy.controlnet

    loaded = comfy.controlnet.load_controlnet_state_dict(dict(tensors))
    assert isinstance(loaded, comfy.controlnet.ControlLora)
    loaded.pre_run(model.model, lambda percent: 999.0 * (1 - percent))
    return loaded.control_model


def loaded_lora(tensors: dict, model, caplog):
    """The MODEL with this file, for which core has a place for every key."""
    import comfy.sd

    with caplog.at_level(logging.WARNING):
        patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0)
    assert "not loaded" not in caplog.text
    assert len(patched.patches) == len(tensors) // 3
    return patched


def read(name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    assert FILES[name].is_file(), "the demo model's adapters belong to the repository"
    return load_file(FILES[name])


def test_the_control_that_core_runs_is_the_one_that_was_trained(model):
    trained = randomized(control.make_controlnet(model.model.diffusion_model))
    loaded = loaded_control(control.tensors(trained), model)
    x, timesteps, text = batch()
    with torch.no_grad():
        expected, got = (network(x, hints(), timesteps, text) for network in (trained, loaded))
    for part in ("output", "middle"):
        for a, b in zip(expected[part], got[part], strict=True):
            assert relative(b.float(), a) < 3e-3  # what the file's half precision costs


def test_the_lora_that_core_runs_is_the_one_that_was_trained(model, caplog):
    import comfy.lora
    from unet import frozen_unet

    unet = frozen_unet({f"model.{name}": tensor for name, tensor in
                        model.model.state_dict().items() if name.startswith("diffusion_model.")})
    plain = {name: weight.clone() for name, weight in unet.state_dict().items()}
    trained = randomized(concept.add_lora(unet))
    patched = loaded_lora(concept.tensors(trained), model, caplog)
    assert len(changes(trained)) == len(patched.patches)
    for name in changes(trained):
        weight, key = plain[f"{name}.weight"], f"diffusion_model.{name}.weight"
        got = comfy.lora.calculate_weight(patched.patches[key], weight.clone(), key)
        change = trained.get_submodule(name).weight - weight
        assert relative(got - weight, change) < 1e-2, name


def test_the_shipped_control_fills_every_layer_and_acts(model):
    network = loaded_control(read("control"), model)
    missing = [name for name, layer in network.named_modules()
               if hasattr(layer, "weight") and layer.weight is None]
    assert not missing
    x, timesteps, text = batch()
    with torch.no_grad():
        seen = network(x, hints(), timesteps, text)
        blank = network(x, torch.zeros_like(hints()), timesteps, text)
    for a, b in zip(seen["output"], blank["output"], strict=True):
        assert relative(a, b) > 0.1


def test_the_shipped_lora_changes_what_the_model_predicts(model, caplog):
    import comfy.model_management

    patched = loaded_lora(read("concept"), model, caplog)
    x, timesteps, text = batch()
    outputs = []
    for one in (model, patched):
        comfy.model_management.load_models_gpu([one], force_full_load=True)
        with torch.no_grad():
            outputs.append(one.model.diffusion_model(x, timesteps, context=text))
    comfy.model_management.unload_all_models()
    assert relative(*outputs) > 0.01


@pytest.fixture
def tiny(monkeypatch):
    """(frozen UNet, its copy, autoencoder), and rounds of few scenes."""
    from unet import make_unet

    monkeypatch.setattr(latents, "SCENES_PER_ROUND", 4)
    torch.manual_seed(1)
    autoencoder = Autoencoder()
    start_as_mosaic(autoencoder)
    unet = make_unet(**TINY)
    torch.nn.init.normal_(unet.out[-1].weight)  # at zero it would let no gradient through
    unet.requires_grad_(False)
    return unet, {name: t.clone() for name, t in unet.state_dict().items()}, autoencoder


def moved(training, before: dict) -> set[str]:
    return {name for name, tensor in training.model.state_dict().items()
            if not torch.equal(tensor, before[name])}


@pytest.mark.any_host
def test_training_the_control_moves_nothing_but_what_the_file_holds(tiny, tmp_path):
    unet, weights, autoencoder = tiny
    training = train_adapters.control_training(tmp_path, unet, 1e-3, **TINY)
    before = {name: t.clone() for name, t in training.model.state_dict().items()}
    batches = control.OutlineBatches(FewCaptions(), autoencoder, CPU, size=64)
    train_adapters.train_control(training, unet, batches, 2, 8, NEVER)
    assert all(torch.equal(t, weights[name]) for name, t in unet.state_dict().items())
    changed = moved(training, before)
    assert {name for name in before if name.startswith("input_hint_block.")} <= changed
    assert all(name.startswith(control.OWN) or ".parametrizations.weight.0." in name
               for name in changed)


@pytest.mark.any_host
def test_training_the_concept_moves_nothing_but_the_lora(tiny, tmp_path, monkeypatch):
    unet, _, autoencoder = tiny
    monkeypatch.setattr(concept, "PHOTOS", concept.PHOTOS[:1])
    training = train_adapters.concept_training(tmp_path, unet, 1e-3)
    before = {name: t.clone() for name, t in training.model.state_dict().items()}
    ordinary = concept.NeighbourBatches(FewCaptions(), autoencoder, CPU)
    encoder = lambda texts: torch.randn(len(texts), 77, 768)  # noqa: E731
    batches = concept.ConceptBatches(ordinary, encoder)
    train_adapters.train_concept(training, batches, 2, 8, NEVER)
    changed = moved(training, before)
    assert changed and all(".parametrizations.weight.0." in name for name in changed)


@pytest.mark.any_host
def test_a_silent_control_leaves_the_prediction_alone(tiny):
    unet, _, _ = tiny
    controlnet = control.make_controlnet(unet, **TINY)
    controlled = control.Controlled(unet, controlnet, hints())
    x, timesteps, text = batch()
    with torch.no_grad():
        assert torch.equal(controlled(x, timesteps, text), unet(x, timesteps, context=text))
        twice = [torch.cat([part, part]) for part in (x, timesteps, text)]
        assert torch.equal(controlled(*twice)[:2], unet(*twice[:2], context=twice[2])[:2])


@pytest.mark.any_host
def test_outlines_say_nothing_about_the_look():
    """The same layout in two looks gives the same outlines, and shapes have some."""
    from dataclasses import replace

    scene = make_scene(3)
    same = replace(scene, style=make_scene(4).style,
                   attributes=replace(scene.attributes, texture="checked"))
    seen = control.outlines([scene, same])
    assert torch.equal(seen[0], seen[1])
    assert 0.01 < seen.mean() < 0.2


@pytest.mark.any_host
def test_guided_sampling_takes_a_controlled_unet(tiny):
    unet, _, _ = tiny
    controlled = control.Controlled(unet, control.make_controlnet(unet, **TINY), hints())
    _, _, text = batch()
    drawn = diffusion.sample(controlled, text, text[:1], 16, seed=0, steps=2)
    assert drawn.shape == (2, 4, 16, 16)
