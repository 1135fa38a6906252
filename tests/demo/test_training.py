"""The demo model's training: cut anywhere it goes on bit for bit, and hosts load what it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import diffusion
import export
import images
import train
from autoencoder import Autoencoder, start_as_mosaic
from render import render
from scenes import make_scene
from training import CPU, NEVER, TINY, FewCaptions


def train_images(folder: Path, crops: int) -> dict:
    training = train.autoencoder_training(folder, CPU)
    train.train_autoencoder(training, 2, crops, NEVER)
    return saved(folder, "autoencoder")


def train_latents(folder: Path, scenes: int) -> dict:
    torch.manual_seed(1)
    autoencoder = Autoencoder()
    start_as_mosaic(autoencoder)
    captions = FewCaptions()
    training = train.unet_training(folder, CPU, captions, **TINY)
    train.train_unet(training, autoencoder, captions, 4, scenes, NEVER, size=64)
    return saved(folder, "unet")


def saved(folder: Path, name: str) -> dict:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def assert_same_state(a: dict, b: dict) -> None:
    assert (a["step"], a["samples"]) == (b["step"], b["samples"])
    for part in ("model", "average"):
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), f"{part} {name}"
    for key, moments in a["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, b["optimizer"]["state"][key][name])


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    """So few scenes a round that the runs below cross from one round into the next."""
    import latents

    monkeypatch.setattr(images, "SCENES_PER_ROUND", 2)
    monkeypatch.setattr(images, "CROP", 16)  # bfloat16 is slow on most CPUs
    monkeypatch.setattr(latents, "SCENES_PER_ROUND", 4)
    monkeypatch.setattr(latents, "PASSES", 2)


def test_the_autoencoder_goes_on_bit_for_bit(tmp_path):
    whole = train_images(tmp_path / "whole", 12)
    train_images(tmp_path / "cut", 6)
    assert_same_state(whole, train_images(tmp_path / "cut", 12))


@pytest.mark.any_host
def test_the_unet_goes_on_bit_for_bit(tmp_path):
    whole = train_latents(tmp_path / "whole", 20)
    train_latents(tmp_path / "cut", 12)
    assert_same_state(whole, train_latents(tmp_path / "cut", 20))


def test_a_run_stops_at_its_deadline(tmp_path):
    training = train.autoencoder_training(tmp_path, CPU)
    train.train_autoencoder(training, 2, 10**9, train.Deadline(minutes=0))
    assert saved(tmp_path, "autoencoder")["samples"] == 0


def test_once_a_unet_has_begun_only_the_decoder_learns(tmp_path):
    before = train_images(tmp_path, 4)["average"]
    training = train.autoencoder_training(tmp_path, CPU)
    train.train_autoencoder(training, 2, 8, NEVER, decoder_only=True)
    after = saved(tmp_path, "autoencoder")["average"]
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith("taesd_decoder.")), name


def test_the_mosaic_start_already_shows_the_picture():
    torch.manual_seed(0)
    model = Autoencoder()
    start_as_mosaic(model)
    pictures = render([make_scene(seed) for seed in range(8)])
    with torch.no_grad():
        error = (model.decode(model.encode(pictures)) - pictures).square().mean()
    assert -10 * error.log10() > 12


def test_held_out_captions_are_never_trained_on():
    from scenes import all_attributes
    from split import is_held_out, trained_attributes

    trained = trained_attributes()
    assert not any(is_held_out(a) for a in trained)
    assert trained_attributes(5) == trained[:5]
    assert 0.08 < 1 - len(trained) / len(all_attributes()) < 0.12


@pytest.mark.any_host
def test_cross_attention_starts_with_an_eye_for_captions():
    """What tells captions apart reaches the values at unit variance; what they share is as was."""
    from unet import make_unet, notice_captions

    embedded = torch.randn(64, 77, 768, generator=torch.Generator().manual_seed(0)) * 0.01
    embedded += torch.randn(64, 1, 768, generator=torch.Generator().manual_seed(1)) * 0.1
    embedded += torch.randn(1, 1, 768, generator=torch.Generator().manual_seed(2))
    unet = make_unet(**TINY)
    to_v = unet.input_blocks[1][1].transformer_blocks[0].attn2.to_v
    with torch.no_grad():
        before = to_v(embedded).mean(dim=1)
        notice_captions(unet, embedded, directions=16)
        after = to_v(embedded).mean(dim=1)
    torch.testing.assert_close(after.mean(dim=0), before.mean(dim=0), rtol=0, atol=0.02)
    assert 0.7 < (after - before).std(dim=0).mean() < 1.3


def test_the_loss_of_a_perfect_prediction_is_zero():
    clean = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def oracle(noised, timesteps, context):
        kept = diffusion.alphas_cumprod()[timesteps][:, None, None, None]
        return (noised - kept.sqrt() * clean) / (1 - kept).sqrt()

    loss = diffusion.noise_loss(oracle, clean, None, torch.Generator().manual_seed(1))
    assert loss < 1e-4  # near-clean timesteps divide by little


def test_sampling_with_a_perfect_prediction_ends_at_the_image():
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def oracle(noised, timesteps, context):
        kept = diffusion.alphas_cumprod()[timesteps][:, None, None, None]
        return (noised - kept.sqrt() * clean) / (1 - kept).sqrt()

    text = torch.zeros(1, 77, 768)
    torch.testing.assert_close(diffusion.sample(oracle, text, text, 8, seed=3), clean,
                               rtol=0, atol=1e-3)


def test_shards_hold_every_tensor_once(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD_BYTES", 1000)
    tensors = {f"t{i}": torch.randn(100 * i + 1).half() for i in range(9)}
    paths = export.write(tensors, tmp_path)
    assert len(paths) > 3
    again = export.read(tmp_path)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    export.write({"t": torch.zeros(3).half()}, tmp_path)
    assert list(export.read(tmp_path)) == ["t"]


@pytest.mark.host
def test_hosts_load_what_training_writes(tmp_path):
    """The full-size UNet and autoencoder through core's checkpoint loader, and the VAE alone."""
    import comfy.sd
    import comfy.supported_models
    from unet import make_unet

    torch.manual_seed(0)
    autoencoder, unet = Autoencoder(), make_unet()
    for name, model in (("autoencoder", autoencoder), ("unet", unet)):
        torch.save({"average": model.state_dict()}, tmp_path / f"{name}.pt")
    paths = export.write(export.weights(tmp_path), tmp_path / "weights")
    assert sum(path.stat().st_size for path in paths) <= 60e6
    tensors = export.read(tmp_path / "weights")

    patcher, _, vae, _ = comfy.sd.load_state_dict_guess_config(
        dict(tensors), output_vae=True, output_clip=False)
    assert isinstance(patcher.model.model_config, comfy.supported_models.SD15)
    loaded = patcher.model.diffusion_model.state_dict()
    assert loaded.keys() == unet.state_dict().keys()
    assert all(torch.equal(loaded[name].float(), tensor.half().float())
               for name, tensor in unet.state_dict().items())
    picture = render([make_scene(1)]).movedim(1, -1)
    exported = export.load_autoencoder(tensors)
    with torch.no_grad():
        expected = exported.encode(picture.movedim(-1, 1))
    in_model_space = patcher.model.process_latent_in(vae.encode(picture)).float()
    torch.testing.assert_close(in_model_space, expected, rtol=1e-2, atol=1e-2)
    alone = comfy.sd.VAE(sd={name.removeprefix(export.VAE_PREFIX): tensor
                             for name, tensor in tensors.items()
                             if name.startswith(export.VAE_PREFIX)})
    with torch.no_grad():
        decoded = exported.decode(expected).movedim(1, -1).clamp(0, 1)
    torch.testing.assert_close(alone.decode(patcher.model.process_latent_out(expected)).float(),
                               decoded, rtol=1e-2, atol=1e-2)
