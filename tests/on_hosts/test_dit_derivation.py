"""A whole variation on DiTs, derived anew from the method: inversion, walk, reading, statistics.

Of the pack only the shuffled start is taken, and seen to be the chain's end in another order.
"""

from __future__ import annotations

import dit_rows
import dits
import graph
import pytest
import tiny_dits
import torch
from composing import watched
from dit_rows import Row

pytestmark = pytest.mark.host
FAMILIES, STEPS, CFG = ("flux", "lumina", "wan"), 5, 3.0
REPLACED, NORMALIZED = 2, 3  # of the five steps, so many
GATES = {"replace_end": 0.4, "normalize_end": 0.6}


def velocities(family: str, sigma: float, *rows: Row) -> list[torch.Tensor]:
    """(x - denoised) / sigma of every row, in one call."""
    found = dit_rows.denoise(dits.model_of(family), dits.name_of(family), rows, sigma)
    return [(row.x - one) / sigma for row, one in zip(rows, found)]


def inverted(family: str, x: torch.Tensor, sigmas: list[float]) -> list[torch.Tensor]:
    """The photo at every noise level, rising; each step's slope is asked for where it arrives."""
    prompt, chain = dits.prompt(family, 1), [x]
    for below, above in zip(sigmas[:-1], sigmas[1:]):
        (slope,) = velocities(family, above, Row(chain[-1], prompt))
        chain.append(chain[-1] + (above - below) * slope)
    return chain


def with_statistics_of(slope: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Channel by channel over all places."""
    places = tuple(range(2, slope.ndim))
    mean = slope.mean(places, keepdim=True)
    scale = other.std(places, keepdim=True) / slope.std(places, keepdim=True)
    return (slope - mean) * scale + other.mean(places, keepdim=True)


def variation(family: str, chain: list[torch.Tensor], sigmas: list[float], x) -> torch.Tensor:
    """Euler down the same levels, the photo's keys right of the image's own."""
    prompts = dits.prompt(family, 3), dits.prompt(family, 4)
    for i, (sigma, below) in enumerate(zip(sigmas[:0:-1], sigmas[-2::-1])):
        own, photo = i >= REPLACED, Row(chain[STEPS - i], dits.prompt(family, 1))
        rows = [Row(x, prompt, role, reads=[0], own=own, shares=[1.0], columns=4.0)
                for prompt, role in zip(prompts, ("positive", "negative"))]
        of_photo, positive, negative = velocities(family, sigma, photo, *rows)
        slope = negative + CFG * (positive - negative)
        slope = with_statistics_of(slope, of_photo) if i < NORMALIZED else slope
        x = x + (below - sigma) * slope
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_a_variation(family):
    import comfy.samplers
    from comfyui_rival.nodes import RivalNoise

    model, chain = dits.model_of(family), dits.chain_of(family, steps=STEPS)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS).flip(0).tolist()
    x = model.model.process_latent_in(tiny_dits.latent(model, 100)["samples"])
    latents = inverted(family, x, sigmas)
    assert graph.relative(chain.latents, torch.cat(latents)) < 1e-5
    start = RivalNoise.execute(chain, 5, "shuffle").args[0]
    start = start.generate_noise({"samples": torch.zeros_like(x)}) * sigmas[-1]
    values = [one.flatten(2).sort().values for one in (start, latents[-1])]
    assert graph.relative(*values) < 1e-5 and graph.relative(start, latents[-1]) > 0.5
    expected = variation(family, latents, sigmas, start)
    found = dits.sample(family, chain, GATES, cfg=CFG, seed=5)
    assert graph.relative(found, model.model.process_latent_out(expected)) < 1e-4


# --- identities of section 8 that one call does not show -----------------------------------------


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize("family", dits.FEW)
def test_the_order_of_what_is_kept_is_nothing(family, monkeypatch):
    """Each key with its value, both turned to where they lie."""
    from comfyui_rival.nodes.steering.recorder import Recorder

    x, prompt = dits.noise(family), dits.prompt(family, 3)
    chain = dits.photo(family, dits.noise(family, 5), dits.prompt(family, 1))
    models = [dits.patched(family, (chain, {**mode, "positions": positions}))
              for mode in dits.MODES.values() for positions in ("same", "beside")]
    before = [dits.velocity(model, x, prompt) for model in models]
    order, keep = torch.randperm(16, generator=torch.Generator().manual_seed(1)), Recorder.keep
    monkeypatch.setattr(Recorder, "keep", lambda self, layer, rows, k, v, *place: keep(
        self, layer, rows, k[..., order, :], v[..., order, :], *place))
    for model, one in zip(models, before):
        assert graph.relative(dits.velocity(model, x, prompt), one) < 1e-6
    monkeypatch.setattr(Recorder, "keep", lambda self, layer, rows, k, v, *place: keep(
        self, layer, rows, k[..., order, :], v, *place))
    assert graph.relative(dits.velocity(models[0], x, prompt), before[0]) > 1e-3


@pytest.mark.parametrize("family", dits.FEW)
def test_the_latents_mean_is_the_photos_as_long_as_statistics_are_taken(family):
    """Channel by channel, since the shuffled start has it, if the chain is solved."""
    latent = tiny_dits.latent(dits.model_of(family), 100)
    chain, _ = graph.invert(dits.model_of(family), latent, dits.prompt(family, 1), steps=6,
                            schedule="simple", solver="anderson", iterations=30, tolerance=1e-6)
    model = dits.patched(family, (chain, {"normalize_end": 1.0}))
    with watched(model) as seen:
        dits.sample(family, chain, model=model)
    photos = [chain.at(sigma) for sigma in chain.sigmas.flip(0)[:-1].tolist()]
    walked = {row.sigma: row.x for row in seen if not any(torch.equal(row.x, p) for p in photos)}
    assert len(walked) == 6
    for sigma, x in walked.items():
        gap = x.flatten(2).mean(2) - chain.at(sigma).flatten(2).mean(2)
        assert gap.abs().max() < 1e-5


@pytest.mark.parametrize("family", dits.FEW)
def test_a_solved_chain_comes_back(family):
    """20 steps through Euler, as near as the shift allows: the last step is its longest."""
    from comfyui_rival.nodes import RivalReconstruct

    model = dits.model_of(family)
    latent, prompt = tiny_dits.latent(model, 100), dits.prompt(family, 1)
    chain, _ = graph.invert(model, latent, prompt, steps=20, schedule="simple",
                            solver="anderson", tolerance=1e-5)
    back = RivalReconstruct.execute(model, chain).args[0]["samples"]
    wide = dits.name_of(family) in ("wan", "lumina2")  # shifts of 8 and 6
    assert graph.relative(back, latent["samples"]) < (2e-3 if wide else 1e-4)
