"""The flow model: hosts load its files, and what they predict is what was trained."""

from __future__ import annotations

import sys
from pathlib import Path

import graph
import pytest
import torch
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import Prompt
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from graph import relative

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import flow
import flow_file
import flow_network
import muon
import wan
import wide_autoencoder
import wide_images
from safetensors.torch import save_file

SMALL = {"width": 256, "hidden": 128, "depth": 2}
SOLVER = {"steps": 4, "solver": "uni_inv", "schedule": "beta"}
TEXT = torch.randn(1, 77, wan.TEXT, generator=torch.Generator().manual_seed(5))


def stirred(**sizes) -> wan.Wan:
    """A network whose every weight says something, in half precision's values."""
    torch.manual_seed(0)
    network = flow_file.fresh(**sizes).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.03 * torch.randn_like(parameter)).copy_(parameter.half())
    return network


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.host
@torch.no_grad()
def test_the_host_predicts_what_was_trained(tmp_path):
    """A file through the loader behind UNETLoader, on pictures that are no square."""
    import comfy.model_management
    import comfy.sd

    network = stirred(**SMALL)
    save_file(flow_file.host_tensors(network), tmp_path / "flow.safetensors")
    patcher = comfy.sd.load_diffusion_model(
        str(tmp_path / "flow.safetensors"), {"dtype": torch.float32})
    comfy.model_management.load_models_gpu([patcher])
    assert type(patcher.model).__name__ == "WAN21"
    x, sigma = noise(2, 16, 6, 10), torch.tensor([0.9, 0.2])
    text = torch.nn.functional.pad(TEXT, (0, flow_file.HOST_TEXT - wan.TEXT))
    theirs = patcher.model.apply_model(x[:, :, None], sigma,
                                       c_crossattn=text.expand(2, -1, -1))[:, :, 0]
    ours = x - sigma[:, None, None, None] * network(x, sigma, TEXT)
    assert relative(ours, theirs) < 1e-4


@pytest.fixture(scope="module")
def in_both(tmp_path_factory, host):
    """A network as UNETLoader and ModelSamplingSD3 give it, and as the second engine has it."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    network = stirred(**SMALL)
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    save_file(flow_file.host_tensors(network), path)
    loaded = comfy.sd.load_diffusion_model(str(path), {"dtype": torch.float32})
    return ModelSamplingSD3().patch(loaded, flow.SHIFT)[0], flow_network.FlowNetwork(network)


@pytest.fixture(scope="module")
def chains(in_both):
    """A photo of 4 x 6 tokens, inverted by each with a prompt of its own on either side."""
    model, network = in_both
    photo = noise(1, 16, 8, 12)
    latent = {"samples": model.model.process_latent_out(photo[:, :, None])[:, :, 0]}
    theirs, _ = graph.invert(model, latent, conditioning(1), negative=conditioning(-1), **SOLVER)
    ours = engine.invert(network, photo, Prompt(TEXT), 4, Prompt(-TEXT), solver=Solver("uni_inv"))
    return theirs, ours


def conditioning(sign: int) -> list:
    width = flow_file.HOST_TEXT - wan.TEXT
    return [[sign * torch.nn.functional.pad(TEXT, (0, width)), {}]]


@pytest.mark.host
@pytest.mark.parametrize("positions", ["beside", "shuffled", "same"])
def test_the_second_engine_does_what_the_nodes_do(in_both, chains, positions):
    """Two variations of another shape: replaced, then lengthened, keys wherever they lie."""
    (model, network), (theirs, ours) = in_both, chains
    assert relative(ours.latents, theirs.latents[:, :, 0]) < 1e-4
    wanted = graph.rival_sample(
        graph.patch(model, theirs, positions=positions), theirs, conditioning(-1), conditioning(1),
        cfg=2.0, seed=3, latent={"samples": torch.zeros(2, 16, 12, 8)},
    )  # fmt: skip
    found = engine.sample(
        network, ours, [Exemplar(ours, positions=positions)], Prompt(-TEXT), Prompt(TEXT), 3, 2.0,
        draws=range(2), size=(12, 8),
    )  # fmt: skip
    assert relative(found, model.model.process_latent_in(wanted[:, :, None])[:, :, 0]) < 1e-4


@pytest.mark.host
@pytest.mark.parametrize("steps", [5, 20, 400])
def test_it_walks_the_hosts_beta(in_both, steps):
    """Of 400 steps neighbours that are one level count once."""
    import comfy.samplers

    model, network = in_both
    sampling = model.get_model_object("model_sampling")
    wanted = comfy.samplers.calculate_sigmas(sampling, "beta", steps)
    torch.testing.assert_close(network.schedule(steps), wanted)


@pytest.mark.host
def test_a_run_leaves_the_second_engines_network_as_it_was(chains, in_both):
    network = in_both[1]
    assert all(layer.processor is wan.attention for layer in network.layers.values())


@pytest.mark.host
@torch.no_grad()
def test_the_host_takes_the_autoencoder_in_its_latents_scale(tmp_path):
    """What the host's model is given is what `encode` gives, and its decoder shows the same."""
    import comfy.latent_formats
    import comfy.sd

    ours = wide_autoencoder.WideAutoencoder().eval()
    if (flow_file.WEIGHTS / flow_file.AUTOENCODER).exists():
        ours = flow_file.read_autoencoder()
    vae, latent_format = comfy.sd.VAE(sd=flow_file.autoencoder_tensors(ours)), \
        comfy.latent_formats.Wan21()
    picture = wide_images.measured_scenes(64)[:2]
    latents = vae.encode(picture.movedim(1, -1))
    assert latents.shape == (2, 16, 8, 8)
    seen = latent_format.process_in(latents[:, :, None])[:, :, 0]
    assert relative(seen, ours.encode(picture)) < 2e-2  # the host may compute in bf16
    back = vae.decode(latents).movedim(-1, 1)
    torch.testing.assert_close(back, ours.decode(ours.encode(picture)).clamp(0, 1),
                               rtol=0, atol=0.05)


def test_a_file_brings_the_network_back():
    network = stirred(**SMALL)
    again = flow_file.network_of(flow_file.host_tensors(network))
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_network_in_parts_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_file, "PART_BYTES", 100_000)
    tensors = flow_file.host_tensors(stirred(**SMALL))
    assert len(flow_file.write(tmp_path, tensors)) > 3
    again = flow_file.read_parts(tmp_path)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@torch.no_grad()
def test_images_may_share_a_text():
    network, x, sigma = stirred(**SMALL), noise(4, 16, 4, 4), torch.rand(4)
    texts = torch.cat([TEXT, -TEXT])
    apart = torch.cat([network(x[:2], sigma[:2], TEXT), network(x[2:], sigma[2:], -TEXT)])
    torch.testing.assert_close(network(x, sigma, texts), apart, rtol=1e-4, atol=1e-5)


def test_patches_come_back():
    x = noise(2, 16, 4, 6)
    as_predicted = wan.patches(x).unflatten(2, (16, 4)).transpose(2, 3).flatten(2)
    assert torch.equal(wan.pictures(as_predicted, 2, 3), x)


def test_a_perfect_velocity_costs_nothing_and_leads_to_the_picture():
    picture = noise(1, 16, 4, 4)

    def oracle(x, sigma, text):
        return (x - picture) / sigma[:, None, None, None].clamp(min=1e-3)

    assert flow.flow_loss(oracle, picture.expand(4, -1, -1, -1), TEXT,
                          torch.Generator().manual_seed(1)) < 1e-6
    drawn = flow.sample(oracle, TEXT, TEXT, (4, 4), seed=3, steps=5)
    torch.testing.assert_close(drawn, picture, rtol=0, atol=1e-4)


def test_muon_steps_are_orthogonal():
    """Five rounds bring every singular value near 1."""
    values = torch.linalg.svdvals(muon.orthogonal(noise(2, 8, 40)).float())
    assert values.min() > 0.5 and values.max() < 1.5


def test_the_wide_autoencoder_starts_as_the_narrow_one():
    """At nearly its error: only the soft limits act elsewhere."""
    import assemble
    import export
    from autoencoder import Autoencoder

    narrow: Autoencoder = export.load_autoencoder(export.read(assemble.WEIGHTS))
    wide = wide_autoencoder.WideAutoencoder()
    wide_autoencoder.start_from(wide, narrow)
    scenes = wide_images.measured_scenes(64)[:4]
    assert wide_images.decibels(wide, scenes) > wide_images.decibels(narrow, scenes) - 3
