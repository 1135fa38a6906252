"""Bad input gets one sentence that names the node, the wrong value and the fix."""

from __future__ import annotations

import copy
import math

import graph
import pytest
import torch

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15")
    prompt = tiny.conditioning(model, 1)
    photo = tiny.latent(2, size=8)
    chain, _ = graph.invert(model, photo, prompt, steps=5)
    return {"model": model, "prompt": prompt, "photo": photo, "chain": chain}


def refuses(node, *said):
    """pytest.raises for one sentence from `node` that holds each of the words."""
    pattern = f"^{node}: " + "".join(f"(?=.*{word})" for word in said) + r"[^\n]*\.$"
    return pytest.raises(ValueError, match=pattern)


def invert(setup, **changes):
    inputs = {"model": setup["model"], "latent": setup["photo"], "positive": setup["prompt"]}
    return graph.invert(**{**inputs, "steps": 5, **changes})


BAD_LATENTS = {
    "batch": (torch.zeros(2, 4, 8, 8), "batch of 2"),
    "no image": (torch.zeros(0, 4, 8, 8), "batch of 0"),
    "no pixels": (torch.zeros(1, 4, 0, 8), "empty"),
    "one pixel": (torch.ones(1, 4, 1, 1), r"too small \(1 x 1\)", "16 pixels"),
    "a line": (torch.ones(1, 4, 25, 1), r"too small \(1 x 25\)", "16 pixels"),
    "empty latent image": (torch.zeros(1, 4, 8, 8), "empty", "VAE Encode"),
    "video": (torch.zeros(1, 4, 3, 8, 8), "5 dimensions"),
    "audio": (torch.zeros(1, 4, 8), "3 dimensions"),
    "other channels": (torch.ones(1, 16, 8, 8), "16 channels"),
    "nan": (torch.full((1, 4, 8, 8), math.nan), "NaN"),
    "infinite": (torch.full((1, 4, 8, 8), math.inf), "NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD_LATENTS)
def test_latents_that_are_not_one_image(setup, name):
    samples, *said = BAD_LATENTS[name]
    with refuses("RIVAL Invert", *said):
        invert(setup, latent={"samples": samples})


@pytest.mark.parametrize(
    "steps, schedule, said", [(0, "rival", "0"), (4, "rival", "sgm_uniform"), (0, "normal", "0")]
)
def test_steps_that_make_no_chain(setup, steps, schedule, said):
    with refuses("RIVAL Invert", "steps", said):
        invert(setup, steps=steps, schedule=schedule)


@pytest.mark.parametrize(
    "sigmas, said",
    [
        ([], "at least 2"),
        ([3.0], "at least 2"),
        ([0.0, 3.0], "fall"),
        ([3.0, -1.0], "negative"),
        ([3.0, math.nan], "NaN"),
    ],
)
def test_sigmas_that_make_no_chain(setup, sigmas, said):
    with refuses("RIVAL Invert", said):
        invert(setup, sigmas=torch.tensor(sigmas))


@pytest.mark.parametrize("cfg", [math.nan, math.inf])
def test_cfg_must_be_a_number(setup, cfg):
    with refuses("RIVAL Invert", "cfg"):
        invert(setup, cfg=cfg)
    with refuses("RIVAL KSampler", "cfg"):
        graph.rival_sample(setup["model"], setup["chain"], *[setup["prompt"]] * 2, cfg=cfg)


def test_guided_inversion_needs_a_negative(setup):
    with refuses("RIVAL Invert", "cfg is 3", "negative"):
        invert(setup, cfg=3.0)


PARTIAL = {
    "area": (8, 8, 0, 0),
    "mask": torch.ones(1, 8, 8),
    "start_percent": 0.2,
    "end_percent": 0.8,
    "control": object(),
}


@pytest.mark.parametrize("key", PARTIAL)
@pytest.mark.parametrize("slot", ["positive", "negative"])
def test_partial_conditioning_cannot_invert(setup, slot, key):
    tokens, options = setup["prompt"][0]
    with refuses("RIVAL Invert", slot):
        invert(setup, **{slot: [[tokens, {**options, key: PARTIAL[key]}]]})


@pytest.mark.parametrize("entries", [0, 2])
def test_one_prompt_inverts(setup, entries):
    with refuses("RIVAL Invert", f"positive has {entries} entries"):
        invert(setup, positive=setup["prompt"] * entries)


def test_a_timestep_range_over_the_whole_schedule_is_no_range(setup):
    tokens, options = setup["prompt"][0]
    whole = [[tokens, {**options, "start_percent": 0.0, "end_percent": 1.0}]]
    chain, _ = invert(setup, positive=whole)
    assert torch.equal(chain.latents, setup["chain"].latents)


def test_other_families_are_refused_by_name(setup, monkeypatch):
    from comfyui_rival.nodes import host

    monkeypatch.delitem(host.FAMILIES, "SD15")
    for node in ("RIVAL Invert", "RIVAL Patch Model", "RIVAL KSampler"):
        with refuses(node, "SD15", "SDXL"):
            if node == "RIVAL Invert":
                invert(setup)
            elif node == "RIVAL Patch Model":
                graph.patch(setup["model"], setup["chain"])
            else:
                graph.rival_sample(setup["model"], setup["chain"], *[setup["prompt"]] * 2)


def test_other_model_samplings_are_refused_by_name(setup):
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.IMG_TO_IMG):
        pass

    other = setup["model"].clone()
    other.add_object_patch("model_sampling", Sampling(other.model.model_config))
    with refuses("RIVAL Invert", "IMG_TO_IMG"):
        invert(setup, model=other)


@pytest.mark.parametrize("name, value", [("iterations", 0), ("tolerance", -1.0),
                                         ("anderson_window", 0), ("anderson_mixing", 0.0)])
def test_solver_settings(setup, name, value):
    with refuses("RIVAL Invert", name, str(value)):
        invert(setup, solver="anderson", **{name: value})


@pytest.mark.parametrize("family", ["sdxl", "sd2_eps"])
def test_a_chain_of_another_family(setup, family):
    import tiny

    other = tiny.build(family)
    with refuses("RIVAL Patch Model", "SD15", type(other.model.model_config).__name__):
        graph.patch(other, setup["chain"])
    with refuses("RIVAL KSampler", "SD15"):
        graph.rival_sample(other, setup["chain"], *[setup["prompt"]] * 2)


def with_card(chain, **changes):
    import dataclasses

    return dataclasses.replace(chain, model=dataclasses.replace(chain.model, **changes))


def test_a_chain_of_another_latent_format(setup):
    with refuses("RIVAL Patch Model", "Playground"):
        graph.patch(setup["model"], with_card(setup["chain"], latent_format="Playground"))


def test_a_chain_whose_model_has_other_layers(setup):
    fewer = with_card(setup["chain"], layers=setup["chain"].model.layers[:-1])
    with refuses("RIVAL Patch Model", "self-attention layers"):
        graph.patch(setup["model"], fewer)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
@pytest.mark.parametrize("name", ["inject_start", "replace_end", "inject_end", "normalize_end"])
def test_gates_outside_the_schedule(setup, name, value):
    with refuses("RIVAL Patch Model", name):
        graph.patch(setup["model"], setup["chain"], **{name: value})


@pytest.mark.parametrize("strength", [-0.1, 1.5, math.nan])
def test_strength_outside_its_range(setup, strength):
    with refuses("RIVAL Patch Model", "strength"):
        graph.patch(setup["model"], setup["chain"], strength=strength)


def test_a_patched_model_cannot_invert(setup):
    with refuses("RIVAL Invert", "RIVAL Patch Model"):
        invert(setup, model=graph.patch(setup["model"], setup["chain"]))


def sample(setup, **changes):
    inputs = {"positive": setup["prompt"], "negative": setup["prompt"], "chain": setup["chain"]}
    model = graph.patch(setup["model"], setup["chain"])
    return graph.rival_sample(**{"model": model, **inputs, **changes})


def test_targets_that_are_no_images(setup):
    for shape in [(1, 4, 3, 8, 8), (0, 4, 8, 8), (1, 4, 0, 8)]:
        with refuses("RIVAL KSampler", "shape"):
            sample(setup, latent={"samples": torch.zeros(shape)})


def test_batch_sizes(setup):
    with refuses("RIVAL KSampler", "batch_size is 0"):
        sample(setup, batch_size=0)
    with refuses("RIVAL KSampler", "already holds 2"):
        sample(setup, batch_size=2, latent={"samples": torch.zeros(2, 4, 8, 8)})


@pytest.mark.parametrize("index", [[], [0], [0, 1, 2]])
def test_a_batch_index_of_another_length(setup, index):
    with refuses("RIVAL KSampler", "2 images", f"{len(index)} entries"):
        sample(setup, latent={"samples": torch.zeros(2, 4, 8, 8), "batch_index": index})


def test_inverted_start_of_another_size(setup):
    with refuses("RIVAL KSampler", "inverted", "8, 8"):
        sample(setup, start="inverted", latent={"samples": torch.zeros(1, 4, 8, 12)})


def test_a_model_that_predicts_nan_makes_no_chain(setup, monkeypatch):
    base = setup["model"].model
    monkeypatch.setattr(base, "_apply_model", lambda x, *_, **__: x * math.nan)
    with refuses("RIVAL Invert", "NaN", "step 1 of", "iteration 1", "float32"):
        invert(setup)


# What works and says so.


def test_a_photo_far_above_native_size_is_a_warning(setup, caplog, monkeypatch):
    from comfyui_rival.nodes import host

    monkeypatch.setitem(host.FAMILIES, "SD15", host.FAMILIES["SD15"]._replace(area=31))
    invert(setup)
    assert "64 latent tokens" in caplog.text and "scale it down" in caplog.text


def test_a_mask_on_the_photo_is_a_warning(setup, caplog):
    invert(setup, latent={**setup["photo"], "noise_mask": torch.ones(1, 64, 64)})
    assert "noise_mask" in caplog.text


def test_a_model_without_the_patch_samples_and_says_so(setup, caplog):
    from comfyui_rival.nodes import RivalKSampler

    output = RivalKSampler.execute(
        setup["model"],
        setup["chain"],
        *[setup["prompt"]] * 2,
        seed=0,
        cfg=1.0,
        sampler_name="euler",
        start="shuffle",
        batch_size=1,
        denoise=1.0,
        eta=0.0,
        eta_start=0.0,
        eta_end=1.0,
    )
    assert "nothing of the photo is injected" in caplog.text
    assert "nothing of the photo is injected" in output.ui.as_dict()["text"][0]


def test_another_chain_than_the_patchs_samples_and_says_so(setup, caplog):
    other, _ = invert(setup, steps=6)
    samples = sample(setup, chain=other)
    assert torch.isfinite(samples).all() and "another chain" in caplog.text


def test_a_chain_on_another_device_follows_the_model(setup):
    """The chain stays where it is; each step's latent goes to the model. Here: another dtype."""
    double = copy.copy(setup["chain"])
    object.__setattr__(double, "latents", setup["chain"].latents.double())
    moved = sample(setup, model=graph.patch(setup["model"], double))
    assert graph.relative(moved, sample(setup)) < 1e-5
