"""What does not fit together with an inversion scheme, and what is remarked on."""

from __future__ import annotations

import graph
import pytest
import spies
import tiny
import torch
from schemes import PHOTO, chain_by, flow, invert, model, prompt, sample

pytestmark = pytest.mark.any_host


def told(solver: str, **inputs) -> list[str]:
    """The notices on RIVAL Invert."""
    from comfyui_rival.nodes import RivalInvert

    widgets = {"steps": 5, "schedule": "rival", "solver": solver, "iterations": 1,
               "tolerance": 1.0, "cfg": 1.0, "anderson_window": 1, "anderson_mixing": 1.0}
    output = RivalInvert.execute(model(), PHOTO, prompt(1), **{**widgets, **inputs})
    return output.ui.as_dict()["notices"]


def test_what_a_solver_does_not_have_is_said():
    (notice,) = told("obelm", coupling=0.95)
    assert "only bdia, edict, rf_inversion have" in notice and "with obelm" in notice
    (notice,) = told("ddim", seed=3)
    assert "seed is 3, which only edit_friendly, rf_inversion use" in notice
    assert not told("bdia", coupling=0.95) and not told("edit_friendly", seed=3)


def test_what_the_model_decides_is_refused():
    with pytest.raises(ValueError, match=r"^RIVAL Invert: the solver rf_inversion is for flow"):
        invert("rf_inversion")
    with pytest.raises(ValueError, match=r"^RIVAL Invert: .*edit_friendly is not for flow models"):
        invert("edit_friendly", flow())


def test_a_transformer_has_no_uniform_attention():
    dit = tiny.build("flux")
    with spies.model_rows(dit) as calls, pytest.raises(
            ValueError, match=r"^RIVAL Invert: caption_attention is uniform, .*set it to words"):
        graph.invert(dit, tiny.latent(2, size=8, channels=16), tiny.conditioning(dit, 1),
                     caption_attention="uniform")
    assert not calls


def test_what_the_sampler_chain_refuses():
    masked = {**PHOTO, "noise_mask": torch.ones(1, 8, 8)}
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: eta is 0.5 and sampler_name chain"):
        sample(chain_by("obelm"), eta=0.5)
    with pytest.raises(ValueError, match=r"^RIVAL KSampler: .*chain and the latent has a mask"):
        sample(chain_by("obelm"), latent=masked)
    for changed in ({"start": "shuffle"}, {"denoise": 0.5, "latent": tiny.latent(9, size=8)}):
        with pytest.raises(ValueError, match=r"^RIVAL KSampler: .*edit_friendly belong.*inverted"):
            sample(chain_by("edit_friendly"), **changed)


def test_another_sampler_on_an_exact_chain_is_remarked_on(caplog):
    for solver, inputs, said in (
        ("obelm", {"sampler_name": "euler"}, True), ("obelm", {}, False),
        ("obelm", {"sampler_name": "euler", "start": "shuffle"}, False),
        ("ddim", {"sampler_name": "euler"}, False),
    ):  # fmt: skip
        caplog.clear()
        sample(chain_by(solver), **inputs)
        assert ("choose the sampler chain" in caplog.text) == said, (solver, inputs)
        assert ("no RIVAL Patch Model" in caplog.text) == bool(inputs), (solver, inputs)


def test_a_patch_between_independent_latents_is_remarked_on(caplog):
    chain = chain_by("edit_friendly")
    patched = graph.patch(model(), chain)
    sample(chain, patched)
    assert "independent" not in caplog.text
    sample(chain, patched, sampler_name="dpm_2")
    assert caplog.text.count("independent of each other") == 1
    caplog.clear()
    sample(chain_by("obelm"), graph.patch(model(), chain_by("obelm")), sampler_name="dpm_2")
    assert "independent" not in caplog.text
