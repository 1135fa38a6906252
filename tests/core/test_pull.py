"""RIVAL Pull's arithmetic on mixtures, against the published loops."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_rival.rival_core.editing import pull
from comfyui_rival.rival_core.editing.pull import Pull
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.sampling.guidance import Keep
from made_chains import make_chain
from mixtures import Mixture, sd_sigmas
from mutants import mutant

ALWAYS = {"start": 0.0, "end": 1.0}
ETA = 0.6


def flow_case():
    """(model, photo, start, falling times)."""
    model = Mixture(flow=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *model.shape, generator=generator, dtype=torch.float64)
    return model, model.data[:1], x, torch.linspace(1, 0, 9, dtype=torch.float64).tolist()


def eps_case():
    model, falling = Mixture(), [*sd_sigmas(10).flip(0)[:-1].tolist(), 0.0]
    generator = torch.Generator().manual_seed(1)
    x = falling[0] * torch.randn(2, *model.shape, generator=generator, dtype=torch.float64)
    return model, model.data[:1], x, falling


def at(model, x, sigma):
    return model(x, x.new_full([len(x)], sigma))


def pulled_euler(model, x, levels, towards, percent=lambda i: 0.5):
    """Euler; towards(i): the Pull of a step, or None."""
    for i, (sigma, following) in enumerate(zip(levels, levels[1:])):
        denoised, one = at(model, x, sigma), towards(i)
        if one is not None:
            denoised = one(x, denoised, sigma, percent(i))
        x = x + (following - sigma) * (x - denoised) / sigma
    return x


def away(found, wanted) -> float:
    return float((found - wanted).norm() / wanted.norm())


# --- the published loops -------------------------------------------------------------------------


def of_rf_inversion(module=pull) -> float:
    """The controller of the way down: v + eta (v_to_the_photo - v), for the first steps."""
    model, photo, x, times = flow_case()
    z = x
    for i, (t, following) in enumerate(zip(times, times[1:])):
        v, to_the_photo = (z - at(model, z, t)) / t, (z - photo) / t
        v = v + (ETA if i < 3 else 0.0) * (to_the_photo - v)
        z = z + (following - t) * v
    one = module.Pull(photo, ETA, 0.0, 3 / 8)
    return away(pulled_euler(model, x, times, lambda i: one, lambda i: i / 8), z)


def of_flow_chef(module=pull, steps: int = 3, rate: float = 0.24) -> float:
    """k gradient steps on 1000 mean((x - t v - photo)^2), the velocity frozen, before each step."""
    model, photo, x, times = flow_case()
    size, z = photo.numel(), x
    for t, following in zip(times, times[1:]):
        v = (z - at(model, z, t)) / t
        for _ in range(steps):
            z = z - rate * 1000 * 2 / size * 1e-3 * (z - t * v - photo)
        z = z + (following - t) * v
    kappa = 1 - (1 - 2000 * rate * 1e-3 / size) ** steps

    def towards(i):
        return module.Pull(photo, kappa / (1 - times[i + 1] / times[i]), **ALWAYS)

    return away(pulled_euler(model, x, times, towards), z)


def of_proximal(module=pull, kappa: float = 0.1) -> float:
    """The clean prediction moved by kappa, its noise kept, in the last steps."""
    model, photo, x, levels = eps_case()
    z = x
    for i, (sigma, following) in enumerate(zip(levels, levels[1:])):
        clean = at(model, z, sigma)
        eps = (z - clean) / sigma
        z = clean - (kappa if i >= 6 else 0.0) * (clean - photo) + following * eps

    def towards(i):
        if i >= 6:
            return module.Pull(photo, kappa / (1 - levels[i + 1] / levels[i]), **ALWAYS)
        return None

    return away(pulled_euler(model, x, levels, towards), z)


@pytest.mark.parametrize("error", [of_rf_inversion, of_flow_chef, of_proximal])
def test_it_is_the_published_loop(error):
    assert error() < 1e-12


# --- windows, fades, masks -----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {"strength": 0.0}, {"start": 0.5, "end": 0.5}, {"start": 0.8, "end": 0.2},
    {"start": 1.0, "end": 1.0}])
def test_without_strength_or_window_nothing_is_touched(settings):
    _, photo, x, _ = flow_case()
    one = Pull(photo, **{"start": 0.0, "end": 1.0, **settings})
    for percent in (0.0, 0.3, 0.5, 0.8, 1.0):
        assert one(x, x, 0.5, percent) is x


@pytest.mark.parametrize("case", [flow_case, eps_case])
def test_all_the_way_it_is_the_photo(case):
    model, photo, x, levels = case()
    one = Pull(photo, 1.0, **ALWAYS)
    found = pulled_euler(model, x, levels, lambda i: one, lambda i: i / (len(levels) - 2))
    torch.testing.assert_close(found, photo.expand_as(found), rtol=0, atol=1e-12)


def test_a_chain_that_ends_above_zero_is_followed_to_its_own_end():
    """There the photo has a level of noise; the prediction leads to it, not through it."""
    chain = make_chain(steps=5)
    levels = chain.falling_sigmas().tolist()
    one = Pull(chain.clean, 1.0, **ALWAYS, chain=chain)
    model = Mixture(shape=tuple(chain.latents.shape[1:]))
    x = torch.randn(2, *model.shape, dtype=torch.float64) * levels[0]
    assert levels[-1] > 0
    found = pulled_euler(model, x, levels, lambda i: one, lambda i: i / 4)
    torch.testing.assert_close(found, chain.latents[:1].to(x).expand_as(x), rtol=0, atol=1e-5)
    weaker = Pull(chain.clean, 0.5, **ALWAYS, chain=chain)(x, x, 1.0, 0.5)
    torch.testing.assert_close(weaker, (x + chain.clean.to(x)) / 2)


def test_the_window_holds_its_start_and_not_its_end_but_for_the_schedules():
    share = Pull(torch.zeros(1, 4, 2, 2), 0.9, 0.25, 0.5).share
    assert [share(p) for p in (0.24, 0.25, 0.49, 0.5, 1.0)] == [0.0, 0.9, 0.9, 0.0, 0.0]
    assert Pull(torch.zeros(1, 4, 2, 2), 0.9, 0.25, 1.0).share(1.0) == 0.9


@pytest.mark.parametrize("fade, shares", [
    ("none", [1, 1, 1]), ("linear", [1, 0.75, 0.5]),
    ("cosine", [1, 0.5 + math.sqrt(0.125), 0.5])])
def test_fades(fade, shares):
    one = Pull(torch.zeros(1, 4, 2, 2), 0.8, 0.2, 0.6, fade)
    assert [one.share(p) for p in (0.2, 0.3, 0.4)] == pytest.approx([0.8 * s for s in shares])


def test_a_mask_pulls_its_part():
    _, photo, x, _ = flow_case()
    mask = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    found = Pull(photo, 0.8, **ALWAYS, mask=mask)(x, x, 0.5, 0.0)
    assert torch.equal(found[..., 1], x[..., 1])
    torch.testing.assert_close(found[..., 0, 0], x[..., 0, 0] + 0.8 * (photo - x)[..., 0, 0])
    torch.testing.assert_close(found[..., 1, 0], x[..., 1, 0] + 0.4 * (photo - x)[..., 1, 0])


def test_latents_with_time():
    x, photo = torch.randn(2, 4, 1, 6, 6), torch.randn(1, 4, 1, 6, 6)
    settings = {"mask": torch.rand(1, 6, 6), "keep_similar": 0.5, **ALWAYS}
    found = Pull(photo, 0.5, **settings)(x, x, 0.5, 0.7)
    flat = Pull(photo[:, :, 0], 0.5, **settings)(x[:, :, 0], x[:, :, 0], 0.5, 0.7)
    assert torch.equal(found[:, :, 0], flat)


@pytest.mark.parametrize("shape", [(1, 4, 2, 3), (1, 3, 2, 2)])
def test_a_photo_of_another_size_is_refused(shape):
    with pytest.raises(RivalError, match=r"the latent is \(2, 2\) and the photo to pull to"):
        Pull(torch.zeros(shape))(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), 0.5, 0.0)


@pytest.mark.parametrize("name", ["strength", "start", "end", "keep_similar"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_out_of_range(name, value):
    with pytest.raises(RivalError, match=name):
        Pull(torch.zeros(1, 4, 2, 2), **{name: value})


def test_where_a_kept_photo_makes_it_idle():
    chain, left = make_chain(steps=5), torch.zeros(1, 8, 8)
    left[..., :4] = 1.0
    everywhere, there = Pull(chain.clean), Pull(chain.clean, mask=left)
    assert everywhere.is_kept_by(Keep(chain, left)) and not there.is_kept_by(Keep(chain, left))
    assert there.is_kept_by(Keep(chain, 1 - left)) and not everywhere.is_kept_by(None)


# --- keep_similar --------------------------------------------------------------------------------


def uniform_attention_maps(denoised, photo, quantile: float):
    """The blending's mask, place by place: soft threshold, threshold again, grown, turned over."""
    delta = photo - denoised
    least = delta.abs().flatten().quantile(quantile)
    delta = delta - delta.clamp(-least, least)
    edited = (delta.abs() > least).double()
    _, channels, height, width = edited.shape
    keep = torch.ones_like(edited)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                near = edited[0, c, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
                keep[0, c, i, j] = 1 - near.max()
    return keep


def of_similar(module=pull) -> float:
    generator = torch.Generator().manual_seed(0)
    photo, edit = torch.randn(2, 1, 4, 9, 9, generator=generator, dtype=torch.float64)
    wanted = [uniform_attention_maps(edit, photo, q) for q in (0.0, 0.5, 0.7)]
    found = [module.similar(edit, photo, q) for q in (0.0, 0.5, 0.7)]
    assert 0.1 < wanted[2].mean() < 0.9 and wanted[1].mean() < wanted[2].mean()
    return max(float((f - w).abs().max()) for f, w in zip(found, wanted))


def test_what_is_similar_is_the_published_mask():
    assert of_similar() == 0


def test_each_image_has_its_own_threshold():
    generator = torch.Generator().manual_seed(0)
    photo = torch.randn(1, 4, 9, 9, generator=generator)
    edits = torch.cat([photo + torch.randn(1, 4, 9, 9, generator=generator) ** 5 * s
                       for s in (0.01, 10.0)])
    together = pull.similar(edits, photo, 0.6)
    assert torch.equal(together, torch.cat([pull.similar(e[None], photo, 0.6) for e in edits]))
    assert torch.equal(pull.similar(photo.clone(), photo, 0.5), torch.ones(1, 4, 9, 9))


def of_rising(module=pull) -> float:
    """The quantile rises from 0 with the schedule, to keep_similar at its end."""
    generator = torch.Generator().manual_seed(0)
    photo, edit = torch.randn(2, 1, 4, 9, 9, generator=generator)
    one, errors = module.Pull(photo, 0.5, **ALWAYS, keep_similar=0.8), []
    for percent in (0.0, 0.5, 1.0):
        keep = uniform_attention_maps(edit, photo, 0.8 * percent).to(edit)
        errors.append(away(one(edit, edit, 0.5, percent), edit + 0.5 * keep * (photo - edit)))
    return max(errors)


def test_the_quantile_rises():
    assert of_rising() < 1e-6


# --- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "away from the photo": ("lerp(denoised, photo, weight)", "lerp(denoised, photo, -weight)",
                            of_rf_inversion),
    "the latent pulled": ("lerp(denoised, photo, weight)", "lerp(x, photo, weight)", of_flow_chef),
    "the rest of the way": ("lerp(denoised, photo, weight)", "lerp(photo, denoised, weight)",
                            of_proximal),
    "one step more": ("percent < self.end", "percent <= self.end", of_rf_inversion),
    "what is edited": ("1.0 - grown.view", "grown.view", of_similar),
    "the first threshold only": ("away - least > least", "away > least", of_similar),
    "not grown": ("GROWN = 1 ", "GROWN = 0 ", of_similar),
    "a falling quantile": ("self.keep_similar * percent", "self.keep_similar * (1 - percent)",
                           of_rising),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_noticed(name):
    right, wrong, error = MISTAKES[name]
    assert error(pull) < 1e-6 and error(mutant(pull, right, wrong)) > 1e-3
