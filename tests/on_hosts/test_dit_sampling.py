"""RIVAL on DiTs, whole runs: strength, sizes, batches, starts, samplers, holes, the way back."""

from __future__ import annotations

import gc

import dits
import graph
import pytest
import spies
import tiny_dits
import torch
from dits import FEW, half
from graph import relative

pytestmark = pytest.mark.host
STYLE = {"normalize_end": 0.4}


@pytest.fixture(scope="module", params=FEW)
def family(request):
    dits.name_of(request.param)
    return request.param


def test_what_does_not_act_is_the_plain_model_bitwise(family):
    chain = dits.chain_of(family)
    plain = dits.sample(family, chain)
    assert torch.equal(dits.sample(family, chain, {**STYLE, "strength": 0.0}), plain)
    assert torch.equal(dits.sample(family, chain, {**STYLE, "mask": torch.zeros(1, 64, 64)}), plain)
    assert relative(dits.sample(family, chain, STYLE), plain) > 1e-2
    assert torch.equal(dits.sample(family, chain), plain)  # and leaves no trace


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_full_mask_is_none_and_a_grey_one_a_strength(family):
    chain = dits.chain_of(family)
    for mask, strength in ((torch.ones(1, 64, 64), 1.0), (torch.full((1, 64, 64), 0.6), 0.6)):
        masked = dits.sample(family, chain, {**STYLE, "mask": mask})
        assert relative(masked, dits.sample(family, chain, {**STYLE, "strength": strength})) < 1e-4


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_more_strength_is_further_from_the_plain_model(family):
    chain = dits.chain_of(family)
    plain, *steered = (dits.sample(family, chain, {**STYLE, "strength": s})
                       for s in (0.0, 0.25, 0.5, 1.0))
    away = [relative(one, plain) for one in steered]
    assert away == sorted(away) and away[0] > 1e-3


@pytest.mark.parametrize("settings", [
    {"strength": 0.3}, {"mask": half()}, {"strength": 0.5, "mask": half("right")}],
    ids=["strength", "mask", "both"])
def test_the_photo_itself_changes_nothing_at_any_strength_or_place(family, settings):
    x, prompt = dits.noise(family), dits.prompt(family, 1)
    chain, plain = dits.photo(family, x, prompt), dits.velocity(dits.model_of(family), x, prompt)
    for mode in dits.MODES.values():
        model = dits.patched(family, (chain, {**mode, **settings, "positions": "same"}))
        assert relative(dits.velocity(model, x, prompt), plain) < 1e-5


def test_twice_the_photo_itself_changes_nothing(family):
    x, prompt = dits.noise(family), dits.prompt(family, 1)
    chain, plain = dits.photo(family, x, prompt), dits.velocity(dits.model_of(family), x, prompt)
    for mode in dits.MODES.values():
        twice = dits.patched(family, *[(chain, {**mode, "positions": "same"})] * 2)
        assert relative(dits.velocity(twice, x, prompt), plain) < 1e-5


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_photos_in_any_order(family):
    chains = [dits.chain_of(family, seed) for seed in (0, 1)]
    patches = [(chains[0], {**STYLE, "mask": half()}), (chains[1], {**STYLE, "strength": 0.7})]
    one, other = (
        dits.sample(family, chains[0], model=dits.patched(family, *order))
        for order in (patches, patches[::-1])
    )
    assert torch.equal(one, other)


SIZES = {"wide": ((6, 14), (8, 8)), "odd": ((9, 7), (9, 7)), "odd beside odd": ((7, 9), (9, 7))}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_photo_and_image(family, name):
    """Also such that are no multiples of a token, which the network pads."""
    photo, image = SIZES[name]
    chain = dits.chain_of(family, size=photo)
    empty = {"samples": torch.zeros_like(tiny_dits.noise(dits.model_of(family), size=image))}
    plain = dits.sample(family, chain, latent=empty)
    steered = dits.sample(family, chain, {**STYLE, "mask": half()}, latent=empty)
    assert steered.shape == plain.shape == empty["samples"].shape
    assert torch.isfinite(steered).all() and relative(steered, plain) > 1e-3


def test_a_batch_is_its_images(family):
    chain = dits.chain_of(family)
    settings = {**STYLE, "mask": half()}
    batch = dits.sample(family, chain, settings, batch_size=3)
    picked = {"samples": torch.zeros_like(batch[:1]), "batch_index": [2]}
    assert relative(batch[2:], dits.sample(family, chain, settings, latent=picked)) < 1e-4


def test_core_samplers_are_ours(family):
    chain = dits.chain_of(family)
    model, prompts = dits.patched(family, (chain, STYLE)), (dits.prompt(family, 3),) * 2
    ours = graph.rival_sample(model, chain, *prompts, seed=3, cfg=1.0)
    assert torch.equal(graph.core_sample(model, chain, *prompts, seed=3, cfg=1.0), ours)


def hole(samples) -> dict:
    mask = torch.zeros(1, 1, *samples.shape[-2:])
    mask[..., 2:6, 1:5] = 1
    return {"samples": samples, "noise_mask": mask}


def test_a_hole_in_the_photo_and_in_another_image(family):
    model, chain = dits.model_of(family), dits.chain_of(family)
    photo, other = (tiny_dits.latent(model, seed)["samples"] for seed in (100, 9))
    for image in (photo, other):
        latent = hole(image)
        filled = dits.sample(family, chain, STYLE, latent=latent, denoise=0.8)
        known = (latent["noise_mask"] == 0).view(-1)
        assert relative(filled.flatten(-2)[..., known], image.flatten(-2)[..., known]) < 1e-5
        inside = relative(filled.flatten(-2)[..., ~known], image.flatten(-2)[..., ~known])
        assert torch.isfinite(filled).all() and inside > 1e-2


def test_less_denoise_stays_nearer_to_the_picture(family):
    chain, picture = dits.chain_of(family), tiny_dits.latent(dits.model_of(family), 9)
    away = [relative(dits.sample(family, chain, STYLE, latent=picture, denoise=d, cfg=1.0),
                     picture["samples"]) for d in (0.25, 0.5, 0.75)]
    assert away == sorted(away)


def test_a_saved_chain_samples_bitwise_the_same(family, tmp_path, monkeypatch):
    import folder_paths
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.file import save

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    chain = dits.chain_of(family, negative=True)
    save(chain, tmp_path / "photo.safetensors")
    loaded = host.load_chain("photo.safetensors").chain
    assert torch.equal(dits.sample(family, loaded, STYLE), dits.sample(family, chain, STYLE))


@pytest.mark.parametrize("interrupted", [pytest.param(False, marks=pytest.mark.any_host), True],
                         ids=["fails", "is interrupted"])  # fmt: skip
def test_a_run_that_ends_early_leaves_nothing(family, interrupted):
    """Between two model calls, or in the midst of one, as newer hosts interrupt."""
    import comfy.model_management

    chain, model = dits.chain_of(family), dits.model_of(family)
    plain, steered = dits.sample(family, chain), dits.sample(family, chain, STYLE)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    error = RuntimeError
    stopped = spies.model_rows(model, 4)
    if interrupted:
        error = comfy.model_management.InterruptProcessingException
        stopped = spies.failing(tiny_dits.last(model), 4, error)
    with spies.live_runs() as runs, stopped, pytest.raises(error, match="stopped by") as kept:
        dits.sample(family, chain, STYLE)
    run = runs[0]()  # alive, for the error's traceback has its frames
    assert run.step is None and not run.conds
    del run, kept
    gc.collect()
    assert runs[0]() is None
    assert "rival" not in str(model.model_options)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert torch.equal(dits.sample(family, chain), plain)
    assert torch.equal(dits.sample(family, chain, STYLE), steered)
