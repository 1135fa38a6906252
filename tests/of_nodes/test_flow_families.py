"""Every flow family that this host has: inverted along its own walk, sampled beside its chain."""

from __future__ import annotations

import graph
import pytest
import tiny_dits
import torch

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=tiny_dits.FAMILIES)
def setup(request):
    if request.param not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {request.param}")
    model = tiny_dits.build(request.param)
    prompt, photo = tiny_dits.conditioning(model, 1), tiny_dits.latent(model, 2)
    return {"model": model, "prompt": prompt, "photo": photo}


@pytest.fixture(scope="module")
def chain(setup):
    return graph.invert(setup["model"], setup["photo"], setup["prompt"], steps=4)[0]


def test_rival_is_the_models_own_walk(setup, chain):
    """From pure noise to exactly 0, as the host's simple goes, and the node says so."""
    from comfyui_rival.nodes import RivalInvert, host

    assert torch.equal(chain.falling_sigmas(),
                       host.scheduler_sigmas(setup["model"], "simple", 4).float())
    assert (chain.top, float(chain.sigmas[0]), chain.schedule) == (1.0, 0.0, "simple")
    grid = tuple(setup["photo"]["samples"].shape[2:])
    assert chain.grid == grid and chain.weights != ""
    shown = RivalInvert.execute(setup["model"], setup["photo"], setup["prompt"], 1, "rival", "ddim",
                                1, 1e-4, 1.0, 1, 1.0).ui.as_dict()["text"][0]
    assert "sigma 1 to 0, the model's own walk (simple)" in shown


def test_the_photo_comes_back(setup):
    from comfyui_rival.nodes import RivalReconstruct

    model = setup["model"]
    chain, _ = graph.invert(model, setup["photo"], setup["prompt"], steps=8, solver="anderson",
                            iterations=5, tolerance=1e-5)
    back, error, *_ = RivalReconstruct.execute(model, chain).args
    assert back["samples"].shape == setup["photo"]["samples"].shape
    assert error**0.5 < 2e-2  # percents are lost by ddim, or with another prompt


def test_samples_are_what_core_samplers_give_back(setup, chain):
    """Of the family's shape, and equal to SamplerCustomAdvanced with RIVAL Noise and Sigmas."""
    import comfy.sample

    model, prompts = setup["model"], [setup["prompt"], tiny_dits.conditioning(setup["model"], 3)]
    empty = torch.zeros(2, 4, 8, 8)
    ours = graph.rival_sample(model, chain, *prompts, seed=3, cfg=2.0)
    core = graph.core_sample(model, chain, *prompts, seed=3, cfg=2.0)
    assert graph.relative(ours, core) < 1e-5
    two = graph.rival_sample(model, chain, *prompts, seed=3, cfg=2.0, latent={"samples": empty})
    fixed = comfy.sample.fix_empty_latent_channels(model, empty)
    assert two.shape == fixed.shape and two.shape[2:] == ours.shape[2:]
    assert graph.relative(two[:1], ours) < 1e-4


def test_a_chain_file_holds_it(setup, chain, tmp_path, monkeypatch):
    import folder_paths
    from comfyui_rival.nodes import RivalLoadChain, RivalSaveChain

    for which in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"get_{which}_directory", lambda: str(tmp_path))
    RivalSaveChain.execute(chain, "chain")
    loaded = RivalLoadChain.execute("chain_00001_.safetensors").args[0]
    assert torch.equal(loaded.latents, chain.latents) and loaded.schedule == "simple"
    prompts = [setup["prompt"]] * 2
    again, fresh = (graph.rival_sample(setup["model"], c, *prompts, cfg=1.0)
                    for c in (loaded, chain))
    assert torch.equal(again, fresh)
