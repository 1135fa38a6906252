"""The flow model's training: cut anywhere it goes on bit for bit, and only what may learn does."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import flow_data
import flow_file
import hints
import images
import scenes
import train_flow
import wide_images
from render import render
from safetensors.torch import save_file
from training import CPU, NEVER, FewCaptions
from wide_autoencoder import WideAutoencoder

SMALL = {"width": 128, "hidden": 64, "depth": 1}
BATCH = 8


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    """So few scenes a round that the runs below cross from one round into the next."""
    monkeypatch.setattr(flow_file, "read", lambda: {})
    monkeypatch.setattr(flow_data, "SCENES_PER_ROUND", 8)
    monkeypatch.setattr(flow_data, "PASSES", 2)
    monkeypatch.setattr(flow_data, "ENCODE_BATCH", 8)
    monkeypatch.setattr(images, "SCENES_PER_ROUND", 2)
    monkeypatch.setattr(wide_images, "CROP", 16)


def options(folder: Path, samples: int, **others) -> argparse.Namespace:
    defaults = {"folder": folder, "samples": samples, "batch": BATCH, "size": 64,
                "compile": False, "wide": False, "slowing": False, "decoder_only": False,
                "device": "cpu"}
    return argparse.Namespace(**defaults | others)


def train_network(folder: Path, samples: int, **others) -> dict:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    save_file(flow_file.autoencoder_tensors(WideAutoencoder()), folder / flow_file.AUTOENCODER)
    captions = FewCaptions()
    training = train_flow.flow_training(folder, CPU, 1e-3, captions, **SMALL)
    train_flow.train_flow(training, captions, options(folder, samples, **others), NEVER)
    return torch.load(folder / "flow.pt", weights_only=True)


def train_pictures(folder: Path, samples: int, **others) -> dict:
    folder.mkdir(exist_ok=True)
    decoder_only = others.get("decoder_only", False)
    training = train_flow.autoencoder_training(folder, CPU, 1e-3, decoder_only)
    train_flow.train_autoencoder(training, options(folder, samples, batch=2, **others), NEVER)
    return torch.load(folder / f"{training.name}.pt", weights_only=True)


def assert_same(a: dict, b: dict) -> None:
    assert (a["step"], a["samples"]) == (b["step"], b["samples"])
    for part in ("model", "average"):
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), f"{part} {name}"


def test_the_network_goes_on_bit_for_bit(tmp_path):
    whole = train_network(tmp_path / "whole", 6 * BATCH, wide=True)
    train_network(tmp_path / "cut", 3 * BATCH, wide=True)
    assert_same(whole, train_network(tmp_path / "cut", 6 * BATCH, wide=True))
    shapes = {latents.shape[2:] for path in (tmp_path / "cut").glob("latents-*/*.pt")
              for latents in torch.load(path)[:1]}
    assert shapes == {(8, 8), (8, 16)}
    written = flow_file.network_of(flow_file.read_parts(tmp_path / "cut"))
    average = hints.network_weights(whole["average"])["head.head.weight"]
    assert torch.equal(written.head.head.weight, average.half().float())


def test_the_autoencoder_goes_on_bit_for_bit(tmp_path):
    whole = train_pictures(tmp_path / "whole", 8)
    train_pictures(tmp_path / "cut", 4)
    assert_same(whole, train_pictures(tmp_path / "cut", 8))
    assert flow_file.read_autoencoder(tmp_path / "cut").vae_scale == WideAutoencoder().vae_scale


def test_the_decoder_may_learn_alone(tmp_path):
    train_pictures(tmp_path, 2)
    before = flow_file.read_autoencoder(tmp_path).state_dict()
    after = train_pictures(tmp_path, 4, decoder_only=True)["model"]
    learnt = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert learnt and all(name.startswith("taesd_decoder.") for name in learnt)


def test_latents_come_in_groups_of_one_caption_and_are_kept(tmp_path):
    captions = FewCaptions()
    store = flow_data.LatentStore(captions, WideAutoencoder(), tmp_path, size=64)
    latents, text, drawn, _ = store.at(0, BATCH)
    assert latents.shape == (BATCH, 16, 8, 8)
    assert text.shape == (BATCH // flow_data.GROUP, 77, 768)
    shown = store.autoencoder.encode(render(drawn)).detach()  # hints are of the same scenes
    nearest = torch.cdist(latents.flatten(1), shown.flatten(1)).argmin(dim=1)
    assert nearest.tolist() == [*range(BATCH)]
    again, *_ = flow_data.LatentStore(captions, WideAutoencoder(), tmp_path, size=64).at(0, BATCH)
    assert latents.isfinite().all() and again.shape == latents.shape
    assert len(list(store.folder.glob("*.pt"))) == 1


def test_hints_say_how_a_scene_was_drawn():
    """Moved by a token, what is said of shapes moves by one; of the whole, nothing changes."""
    scene = scenes.make_scene(3, scenes.Attributes(1, "red", "star", "blue", "striped"))
    shape = replace(scene.layout[0], x=56.0, y=56.0)
    here, there = (replace(scene, layout=(replace(shape, x=shape.x + 16 * i),)) for i in range(2))
    one, other = hints.hints([here, there]).unflatten(1, (8, 8))
    assert one.shape == (8, 8, hints.HINTS)
    torch.testing.assert_close(one[:, :-1, :5], other[:, 1:, :5])
    texture, words = slice(5, 9), slice(41, None)
    for stays in (texture, words):
        assert torch.equal(one[..., stays], other[..., stays])
    fade, dx, dy = one[3, 3, :3]
    assert fade == 2 and dx == dy == 0 and one[3, 2, 1] > 0 > one[3, 4, 1]


def test_hints_say_where_there_is_shape_and_where_the_second_shade():
    """As a scene in black and white shows it, at the middles of cells of 4 pixels."""
    scene = scenes.make_scene(3, scenes.Attributes(2, "red", "star", "blue", "checked"))
    black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for said, style in ((slice(9, 25), {"color": white, "background": black, "second": black}),
                        (slice(25, 41), {"color": black, "background": black, "second": white})):
        image = render([replace(scene, style=replace(scene.style, **style))])[0, 0]
        cells = hints.hints([scene])[0, :, said].view(8, 8, 4, 4).transpose(1, 2).reshape(32, 32)
        about = torch.stack([image[1 + i::4, 1 + j::4] for i in range(2) for j in range(2)])
        even = about.amax(dim=0) == about.amin(dim=0)
        assert even.float().mean() > 0.7
        torch.testing.assert_close(cells[even] / 2, about[0][even])


def test_a_striped_background_has_one_phase_and_a_plain_one_none():
    for texture, phases in (("plain", 0), ("striped", 1), ("checked", 2)):
        scene = scenes.make_scene(3, scenes.Attributes(1, "red", "star", "blue", texture))
        said = hints.hints([scene])[0, :, 5:9].unflatten(1, (2, 2)).norm(dim=2)
        assert said.sum(dim=1).allclose(torch.tensor(float(phases)))
