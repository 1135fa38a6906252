"""Chain files from elsewhere, rightly signed: those that load work, and the rest is refused."""

from __future__ import annotations

import copy
import dataclasses
import math

import graph
import pytest
import torch
from campaign import files
from saving import refuses

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def folder():
    with files.folders() as folder:
        yield folder


@pytest.fixture
def load(folder):
    """RIVAL Load Chain, of the sound file of a family after a change to it."""

    def loaded(change=lambda opened: None, family="sd15"):
        from comfyui_rival.nodes import RivalLoadChain

        opened = copy.deepcopy(files.sound(family))
        change(opened)
        files.write(path := folder / "given.safetensors", opened)
        try:
            return RivalLoadChain.execute(path.name).args[0]
        finally:
            path.unlink()

    return loaded


def sample(chain, family="sd15", **inputs):
    model, positive, negative = files.model_of(family)
    return graph.rival_sample(graph.patch(model, chain), chain, positive, negative, **inputs)


def option(key, value):
    """A change that sets an option of the positive prompt."""

    def change(opened):
        packed = value
        if isinstance(value, torch.Tensor):
            opened.tensors[f"given {key}"] = value
            packed = {"tensor": f"given {key}"}
        opened.description["positive"][0][1]["dict"][key] = packed

    return change


def tensor(name, function):
    """A change to one tensor, or to the positive prompt's encoding."""

    def change(opened):
        key = name or opened.description["positive"][0][0]["tensor"]
        opened.tensors[key] = function(opened.tensors[key]).contiguous()

    return change


def said(path, value):
    """A change to what the header says."""
    *keys, last = path.split("/")

    def change(opened):
        place = opened.description
        for key in keys:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = value

    return change


def with_nan(values):
    values = values.clone()
    values.view(-1)[3] = math.nan
    return values


UNSOUND = {
    "NaN in the prompt": tensor(None, with_nan),
    "infinity in the prompt": tensor(None, lambda x: x / 0.0),
    "a prompt of 1e30": tensor(None, lambda x: x * 1e30),
    "three prompts": tensor(None, lambda x: x.repeat(3, 1, 1)),
    "latents x 1e30": tensor("latents", lambda x: x * 1e30),
    "sigmas x 1e30": tensor("sigmas", lambda x: x * 1e30),
    "sigmas x 1e7": tensor("sigmas", lambda x: x * 1e7),
    "infinite residuals": tensor("residuals", lambda x: x / 0.0),
    "endless calls": tensor("calls", lambda x: torch.full_like(x, 2**63 - 1)),
    "sigma_data 1e-300": said("scaling/sigma_data", 1e-300),
    "sigma_data 1e30": said("scaling/sigma_data", 1e30),
    "sigma_max 1e30": said("scaling/sigma_max", 1e30),
    "cfg 1e30": said("cfg", 1e30),
    "a page as family": said("model/family", "<img src=x onerror=alert(1)>"),
    "a page as latent format": said("model/latent_format", "a&b"),
    "a page as schedule": said("schedule", "<b>x</b>"),
    "a link as schedule": said("schedule", "[[x|https://x.y]]"),
    "quotes as schedule": said("schedule", "'\""),
    "a family of two lines": said("model/family", "a\nb"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_numbers_and_names_that_no_chain_has(load, name):
    with refuses("RIVAL Load Chain", "damaged|beyond what any model has"):
        load(UNSOUND[name])


SIDES = ("width", "height", "crop_w", "target_height", "aesthetic_score")
UNREADABLE = {
    "start_percent": [torch.zeros(2), "x", None, [0.0], 0.25, math.nan],
    "end_percent": [torch.ones(()), None, 0.5],
    "clip_start_percent": [0.0, "x"],  # alone
    "timestep_start": ["x", 0.5, None, torch.zeros(1)],
    "strength": ["x", 0.0, 1e-300, 1e30, None, torch.ones(1), [1]],
    "pooled_output": ["x", 5, [1.0], torch.full((1, 32), math.nan), torch.zeros(1, 32).long()],
    **{key: ["x", None, 1e30, 2**62, [], True, torch.ones(1)] for key in SIDES},
    "unclip_conditioning": [[], None, [{"dict": {"strength": 1.0}}]],
    "concat_latent_image": [torch.zeros(1, 3, 8, 8), torch.zeros(2, 4, 8, 8), torch.zeros(4), "x",
                            torch.full((1, 4, 8, 8), math.inf), None],
    "concat_mask": [torch.zeros(2, 1, 8, 8), torch.zeros(3), torch.ones(1, 1, 8, 8).bool(), 1.0],
    "area": [None, [1, 2], torch.zeros(4)],
    "mask": [None, torch.ones(1, 8, 8)],
    "hooks": [None, "x"], "control": [None, {"dict": {}}], "gligen": [None, [1]],
    "model_conds": [None, {"dict": {}}], "additional_models": [None, []],
    "noise_concat": [torch.zeros(1, 4, 8, 8)], "denoise_mask": ["x"], "latent_image": [None],
    "prompt_type": [5, None, torch.zeros(2)], "control_apply_to_uncond": [torch.zeros(2), "x"],
    "cross_attn_controlnet": ["x", torch.zeros(2, 3, 4), torch.zeros(5)],
    "self": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("key", UNREADABLE)
def test_options_that_the_model_would_stumble_over(load, key):
    for value in UNREADABLE[key]:
        if isinstance(value, float) and math.isnan(value):
            continue  # no JSON
        with refuses("RIVAL Load Chain", "positive|damaged|file") as refused:
            load(option(key, value))
        assert len(str(refused.value)) < 300, value


HARMLESS = {
    "start_percent": [0, 0.0], "end_percent": [1.0], "strength": [0.5, 2], "default": [True],
    "guidance": [3.5, None, "x"], "set_area_to_bounds": [True, "x"], "mask_strength": ["x"],
    "attention_mask": [torch.full((1, 5), -math.inf), torch.ones(2).bool()], "seed": ["x"],
    "reference_latents": [[torch.zeros(1, 4, 2, 2).tolist()]], "crop_w": [8], "": ["x"],
    "a pack's own": [None, "<b>", {"dict": {"a": [1, 2]}}, torch.full((2,), math.nan)],
    "concat_mask": [torch.ones(1, 1, 8, 8), torch.ones(1, 3, 5), torch.ones(8, 8)],
    "prompt_type": ["negative"], "control_apply_to_uncond": [False], "uuid": [5],
    "concat_latent_image": [torch.zeros(1, 4, 3, 5)], "pooled_output": [None],
    "cross_attn_controlnet": [torch.zeros(1, 3, 32)], "noise": ["x"], "device": ["x"],
}  # fmt: skip


def test_options_that_nobody_reads_or_that_are_as_they_should_be(load):
    """What other packs put into a prompt keeps no file from being used, and is kept."""

    def all_of_them(opened):
        for key, values in HARMLESS.items():
            option(key, values[-1])(opened)

    chain = load(all_of_them)
    assert chain.positive[0][1].keys() >= HARMLESS.keys()
    assert torch.isfinite(sample(chain)).all()
    for key, values in HARMLESS.items():
        for value in values[:-1]:
            load(option(key, value))


MISFITS = {
    "a narrower prompt": ("sd15", tensor(None, lambda x: x[..., :31]), "text encoding of 31"),
    "a wider pooled prompt": ("sdxl", option("pooled_output", torch.zeros(1, 33)),
                              "pooled text encoding of 33 numbers and this model reads 32"),
    "a pooled prompt of 3": ("sdxl", option("pooled_output", torch.zeros(3)), "pooled"),
    "no pooled prompt": ("sdxl", option("pooled_output", None), "pooled text encoding of 0"),
    "another sigma_data": ("sd15", said("scaling/sigma_data", 0.5), "sigma_data 0.5.*sigma_data 1"),
    "EDM": ("sd15", said("scaling", {"kind": "diffusion", "sigma_max": 80.0, "sigma_data": 0.5}),
            "up to sigma 80"),
    "a flow": ("sd15", said("scaling", {"kind": "flow", "sigma_max": 1.0, "sigma_data": 1.0}),
               "as a flow up to sigma 1"),
    "a higher sigma_max": ("sd15", said("scaling/sigma_max", 80.0), "up to sigma 80,"),
    "other layers": ("sd15", said("model/layers", []), "0 self-attention layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_chains_of_another_model_are_refused_where_they_are_used(load, name):
    from comfyui_rival.nodes import RivalReconstruct

    family, change, words = MISFITS[name]
    chain, (model, positive, negative) = load(change, family), files.model_of(family)
    with refuses("RIVAL Patch Model", words):
        graph.patch(model, chain)
    with refuses("RIVAL KSampler", words):
        graph.rival_sample(model, chain, positive, negative)
    with refuses("RIVAL Reconstruct", words):
        RivalReconstruct.execute(model, chain)


def test_a_start_that_would_be_scaled_for_another_model(load):
    """Its top is at both models' tops, the sigma that denoise starts at is at one's alone."""
    chain = load()
    wrong = dataclasses.replace(chain.scaling, sigma_max=float(chain.sigmas[1]))
    chain = dataclasses.replace(chain, scaling=wrong)
    assert torch.isfinite(sample(chain)).all()
    with refuses("RIVAL KSampler", "up to sigma"):
        sample(chain, denoise=0.5)


@pytest.mark.parametrize("one, other", [("sd15", "sd15_lcm"), ("sd15_lcm", "sd15"),
                                        ("sd15_zsnr", "sd15"), ("sdxl_edm", "sdxl_edm")])
def test_other_ways_to_sample_the_same_scaling_stay_legal(one, other):
    from composing import chain_of, prompts

    chain, (model, *_) = chain_of(one), files.model_of(other)
    samples = graph.rival_sample(graph.patch(model, chain), chain, *prompts(one).values())
    assert torch.isfinite(samples).all()


def test_an_inpainting_model_needs_a_chain_of_its_own_kind(load):
    model, *_ = files.model_of("sd15_inpaint")
    changes = [
        ("sd15", lambda opened: None),
        ("sd15_inpaint", option("concat_latent_image", torch.zeros(1, 4, 1, 4))),
        ("sd15_inpaint", option("concat_mask", torch.ones(1, 1, 1, 4))),
    ]
    for family, change in changes:
        with refuses("RIVAL Patch Model", "this model is for inpainting"):
            graph.patch(model, load(change, family))
    chain, (plain, *_) = load(family="sd15_inpaint"), files.model_of("sd15")
    graph.patch(plain, chain)


def broken(model, rows: slice):
    """The model, whose prediction is NaN for some of the rows."""

    def post_cfg(args):
        denoised = args["denoised"].clone()
        denoised[rows] = math.nan
        return denoised

    model = model.clone()
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def spoilt(model):
    """The model with a weight that is NaN."""
    key = "diffusion_model.out.2.bias"
    model = model.clone()
    model.add_patches({key: (torch.full_like(model.model.state_dict()[key], math.nan),)})
    return model


def test_no_nan_without_a_word(load, caplog):
    from comfyui_rival.nodes import RivalReconstruct

    chain, (model, positive, negative) = load(), files.model_of("sd15")
    nowhere, first = broken(model, slice(None)), broken(model, slice(1))
    for attempt in (
        lambda: graph.rival_sample(nowhere, chain, positive, negative),
        lambda: RivalReconstruct.execute(spoilt(model), chain),  # without others' guidance
    ):
        with refuses("RIVAL (KSampler|Reconstruct)", "NaN or infinity", "float32"):
            attempt()
    samples = graph.rival_sample(first, chain, positive, negative, batch_size=3, cfg=1.0)
    assert torch.isfinite(samples).flatten(1).all(dim=1).tolist() == [False, True, True]
    assert "1 of 3 images are NaN or infinity" in caplog.text


def test_a_prompt_that_says_nothing_is_not_inverted():
    import tiny

    model, ((tokens, options),), _ = files.model_of("sd15")
    with refuses("RIVAL Invert", "strength 0"):
        graph.invert(model, tiny.latent(0, size=8), [[tokens, {**options, "strength": 0.0}]])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_photo_of_one_colour_is_reconstructed(load, value):
    """It has no range to measure an error by, and black not even a size."""
    from comfyui_rival.nodes import RivalReconstruct

    chain = load(tensor("latents", lambda x: torch.full_like(x, value)))
    _, relative, psnr, _ = RivalReconstruct.execute(files.model_of("sd15")[0], chain).args
    assert psnr == -math.inf and (relative == math.inf) == (value == 0)


def test_a_report_of_residuals_that_are_none(load):
    """Of a chain in the graph; no file holds them."""
    from comfyui_rival.nodes import RivalChainReport

    chain = load()
    chain = dataclasses.replace(chain, residuals=torch.full_like(chain.residuals, math.inf))
    assert "inf" in RivalChainReport.execute(chain).args[1]


def test_a_schedule_of_another_pack_is_saved_and_loaded(load, folder):
    from comfyui_rival.nodes import RivalLoadChain
    from comfyui_rival.rival_core.chain import file as chain_file

    for schedule, wanted in {"GITS[coeff=1.2]": "GITS[coeff=1.2]", "a/<b>é": "a__b__"}.items():
        chain = dataclasses.replace(load(), schedule=schedule)
        chain_file.save(chain, path := folder / "given.safetensors")
        assert RivalLoadChain.execute(path.name).args[0].schedule == wanted
        path.unlink()
