"""LATENTs for models of other channels, sizes and dimensions than SD's, as the host takes them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import graph
import pytest
import torch
from made_chains import make_chain

pytestmark = pytest.mark.host


def model_of(name: str):
    """As much of a MODEL as a look at its latents takes."""
    import comfy.latent_formats

    if not hasattr(comfy.latent_formats, name):
        pytest.skip(f"this ComfyUI has no {name}")
    space = getattr(comfy.latent_formats, name)()
    return SimpleNamespace(get_model_object={"latent_format": space}.__getitem__)


def refuses(said: str):
    from comfyui_rival.rival_core.errors import RivalError

    return pytest.raises(RivalError, match=said)


def chain_of(name: str, channels: int, *grid: int):
    chain = make_chain(size=grid[-2:], channels=channels, name=name)
    return replace(chain, latents=chain.latents.unflatten(2, (*grid[:-2], -1)))


@pytest.mark.parametrize("shape", [(1, 16, 6, 8), (1, 16, 1, 6, 8)])
def test_a_photo_for_a_model_with_time(shape):
    from comfyui_rival.nodes import checks

    samples = torch.randn(shape, dtype=torch.float64)
    image = checks.latent_image({"samples": samples}, model_of("Wan21"))
    assert image.shape == (1, 16, 1, 6, 8) and image.dtype == torch.float32
    assert torch.equal(image.flatten(), samples.float().flatten())


@pytest.mark.parametrize("shape, said", [
    ((1, 16, 3, 6, 8), "is a video of 3 frames: give one image"),
    ((1, 4, 6, 8), "has 4 channels and the model takes 16"),
    ((2, 16, 6, 8), "a batch of 2"),
    ((1, 16, 1, 1, 8), r"too small \(8 x 1\)"),
    ((1, 16, 1, 1, 6, 8), "has 6 dimensions"),
    ((1, 16, 8), "has 3 dimensions"),
])
def test_what_is_no_photo_for_a_model_with_time(shape, said):
    from comfyui_rival.nodes import checks

    with refuses(said):
        checks.latent_image({"samples": torch.randn(shape)}, model_of("Wan21"))


@pytest.mark.parametrize("name, given, wanted", [
    ("SD15", (2, 4, 6, 8), (6, 8)),
    ("Flux", (2, 4, 6, 8), (6, 8)),
    ("Wan21", (2, 4, 6, 8), (1, 6, 8)),
    ("Wan21", (2, 16, 1, 6, 8), (1, 6, 8)),
    ("HunyuanVideo", (2, 16, 6, 8), (1, 6, 8)),
])
def test_an_empty_latent_gives_the_size(name, given, wanted):
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.start import target

    model = model_of(name)
    chain = chain_of(name, host.latent_channels(model), *wanted)
    latent = host.as_its_own(model, {"samples": torch.zeros(given)})
    assert latent["samples"].shape == (2, host.latent_channels(model), *wanted)
    assert target(latent, chain, 1) == (wanted, [0, 1])


def test_an_empty_latent_of_other_pixels_gives_the_size():
    """Empty Latent Image of newer hosts tells its 8 pixels; Flux2's are 16, with 128 channels."""
    from comfyui_rival.nodes import host

    latent = {"samples": torch.zeros(1, 4, 8, 12), "downscale_ratio_spacial": 8}
    found = host.as_its_own(model_of("Flux2"), latent)["samples"]
    assert found.shape == (1, 128, 4, 6) and not found.any()
    assert host.as_its_own(model_of("SD15"), latent)["samples"].shape == (1, 4, 8, 12)


@pytest.mark.parametrize("name, shape, said", [
    ("Wan21", (1, 16, 2, 6, 8), "is a video of 2 frames"),
    ("SD15", (1, 4, 1, 6, 8), r"the shape \[1, 4, 1, 6, 8\]: give a latent of images"),
])
def test_videos_are_no_target(name, shape, said):
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.start import target

    chain = chain_of(name, shape[1], *(1, 6, 8)[-len(shape[2:]) if name == "Wan21" else -2:])
    with refuses(said):
        target(host.as_its_own(model_of(name), {"samples": torch.zeros(shape)}), chain, 1)


def test_a_mask_lies_on_each_image_of_a_batch():
    from comfyui_rival.nodes import host

    masks = torch.stack([torch.zeros(48, 64), torch.ones(48, 64)])
    flat = host.latent_mask(masks, torch.randn(2, 16, 6, 8))
    timed = host.latent_mask(masks, torch.randn(2, 16, 1, 6, 8))
    assert flat.shape == (2, 1, 6, 8) and timed.shape == (2, 1, 1, 6, 8)
    assert torch.equal(timed.squeeze(2), flat) and not flat[0].any() and flat[1].all()


@pytest.fixture(scope="module")
def runs():
    """What the nodes give of a photo with a time, and of the same without one."""
    import tiny_dits
    from comfyui_rival.nodes import RivalReconstruct

    model = tiny_dits.build("wan")
    prompt, other = (tiny_dits.conditioning(model, seed) for seed in (1, 2))
    timed = tiny_dits.latent(model, 5)["samples"]
    found = []
    for samples in (timed, timed.squeeze(2)):
        chain, noise = graph.invert(model, {"samples": samples}, prompt, steps=2)
        patched = graph.patch(model, chain)
        given = {"latent": {"samples": torch.zeros(1, 16, 4, 6)}, "batch_size": 2}
        again = RivalReconstruct.execute(model, chain, ImageDecoder()).args
        found.append((chain, {
            "noise": noise["samples"],
            "variations": graph.rival_sample(patched, chain, other, prompt, cfg=2.0, batch_size=2),
            "another size": graph.rival_sample(patched, chain, other, prompt, cfg=1.0, **given),
            "reconstruction": again[0]["samples"],
        }, again[1:]))
    return found


def test_a_photo_without_time_comes_back_without_one(runs):
    """So that its VAE, which knows images only, decodes it; the chain is the same."""
    (chain, timed, _), (flat_chain, flat, _) = runs
    assert torch.equal(flat_chain.latents, chain.latents) and chain.grid[0] == 1
    for name, samples in flat.items():
        assert timed[name].ndim == 5 and samples.ndim == 4, name
        assert torch.equal(samples, timed[name][:, :, 0]), name


def test_a_vae_of_images_shows_what_has_time(runs):
    """It is never given the time: also where the chain has one, as from a file."""
    (chain, _, timed), (_, _, flat) = runs
    assert timed == flat and "image: " in timed[-1]
    from comfyui_rival.nodes import host

    assert host.picture_of(chain.clean, "Wan21", ImageDecoder()).shape == (64, 64, 3)


class Decoder:
    """A VAE that shows the first three channels, as the host's do for latents with time."""

    def decode(self, samples):
        picture = samples[:, :3].movedim(1, -1)
        return picture.repeat_interleave(8, -3).repeat_interleave(8, -2)


class ImageDecoder(Decoder):
    """One that takes four dimensions only, as the oldest host hands on what it is given."""

    latent_dim = 2

    def decode(self, samples):
        assert samples.ndim == 4
        return super().decode(samples)


@pytest.mark.parametrize("name, channels, grid", [
    ("Wan21", 16, (1, 6, 8)), ("HunyuanVideo", 16, (1, 6, 8)), ("Flux", 16, (6, 8)),
    ("Flux2", 128, (3, 4)),
])
def test_pictures_of_their_chains(name, channels, grid):
    """By the host's colours, and by a VAE; for Flux2 a latent's pixel holds four."""
    from comfyui_rival.nodes import RivalChainReport, host

    model_of(name)
    chain = chain_of(name, channels, *grid)
    shown = host.picture_of(chain.clean, name)
    assert shown.shape == ((6, 8, 3))
    decoded = host.picture_of(chain.clean, name, Decoder())
    assert decoded.shape == (8 * grid[-2], 8 * grid[-1], 3)
    image, report = RivalChainReport.execute(chain, Decoder()).args
    assert image.shape[2] == 1400 and f"latent {grid[-1]} x {grid[-2]}" in report


def test_a_chain_file_has_its_formats_shape(tmp_path, monkeypatch):
    import folder_paths
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.file import save

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    prompt = [[torch.randn(1, 3, 8), {}]]
    good, flat = chain_of("Wan21", 16, 1, 6, 8), chain_of("Wan21", 16, 6, 8)
    for name, chain in (("good", good), ("flat", flat)):
        save(replace(chain, positive=prompt), tmp_path / f"{name}.safetensors")
    assert host.load_chain("good.safetensors").chain.grid == (1, 6, 8)
    with refuses("another shape than its model"):
        host.load_chain("flat.safetensors")
