"""RIVAL Pull in the host: what it leaves alone, where it ends, beside other nodes of the pack."""

from __future__ import annotations

import functools

import dits
import graph
import pytest
import spies
import tiny
import tiny_dits
import torch
from composing import guider_of, predict
from graph import relative

pytestmark = pytest.mark.host

ALWAYS = {"start": 0.0, "end": 1.0}
CFG = 3.0


class Case:
    """A MODEL, a photo of 8 x 8, prompts, and noise to start from."""

    def __init__(self, family: str):
        if family == "sd15":
            self.model = tiny.calm(tiny.build("sd15", levels=1))
            self.prompts = [tiny.conditioning(self.model, seed) for seed in (1, 2)]
            self.photo = tiny.latent(2, size=8)
        else:
            self.model = dits.model_of(family)
            self.prompts = [dits.prompt(family, seed) for seed in (1, 2)]
            self.photo = tiny_dits.latent(self.model, 2)
        self.samples = self.photo["samples"]
        generator = torch.Generator().manual_seed(4)
        self.noise = torch.randn(2, *self.samples.shape[1:], generator=generator)

    @property
    def sigmas(self) -> torch.Tensor:
        import comfy.samplers

        sampling = self.model.get_model_object("model_sampling")
        return comfy.samplers.calculate_sigmas(sampling, "simple", 4)

    def sample(self, model=None, sampler="euler", cfg=CFG) -> torch.Tensor:
        """Core's sampling, to 0."""
        import comfy.samplers

        guider = guider_of(model or self.model, *self.prompts, cfg)
        kind = comfy.samplers.sampler_object(sampler)
        return guider.sample(self.noise, torch.zeros_like(self.noise), kind, self.sigmas, seed=1)

    def pulled(self, model=None, **inputs):
        return graph.pull(model or self.model, **{"latent": self.photo, **inputs})


@pytest.fixture(scope="module")
def cases():
    return functools.cache(Case)


@pytest.fixture
def sd(cases):
    return cases("sd15")


@pytest.fixture(scope="module")
def chain():
    case = Case("sd15")
    return graph.invert(case.model, case.photo, case.prompts[0], steps=5)[0]


def left_half() -> torch.Tensor:
    return dits.half()


@pytest.mark.parametrize("family", ["sd15", "flux", "wan"])
def test_without_strength_or_window_it_is_the_plain_model_bitwise(cases, family):
    case = cases(family)
    plain = case.sample()
    nothing = [{"strength": 0.0, **ALWAYS}, {"start": 0.5, "end": 0.5}, {"start": 0.6, "end": 0.3},
               {"mask": torch.zeros(1, 64, 64), **ALWAYS}]  # fmt: skip
    for inputs in nothing if family == "sd15" else nothing[::3]:
        assert torch.equal(case.sample(case.pulled(**inputs)), plain)
    assert relative(case.sample(case.pulled()), plain) > 1e-2
    assert torch.equal(case.sample(), plain)  # and the model before the node is untouched


@pytest.mark.parametrize("family", ["sd15", "flux", "wan"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "dpmpp_sde"])
def test_all_the_way_it_is_the_photo_under_any_sampler(cases, family, sampler):
    case = cases(family)
    found = case.sample(case.pulled(strength=1.0, **ALWAYS), sampler)
    assert relative(found, case.samples.expand_as(found)) < 1e-6


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_all_the_way_along_a_chain_that_ends_above_zero(sd, chain, sampler, caplog):
    assert float(chain.sigmas[0]) > 0
    model = graph.pull(sd.model, chain=chain, strength=1.0, **ALWAYS)
    found = graph.rival_sample(model, chain, *sd.prompts, sampler_name=sampler)
    assert relative(found, sd.samples) < 1e-5
    assert "RIVAL KSampler" not in caplog.text, "it is no model without the photo"


def test_the_photo_of_a_chain_is_the_latents(sd, chain):
    by_chain, by_latent = graph.pull(sd.model, chain=chain), sd.pulled()
    assert relative(sd.sample(by_chain), sd.sample(by_latent)) < 1e-5


@pytest.mark.parametrize("family", ["sd15", "flux", "wan"])
def test_it_is_rf_inversions_controller_in_its_window(cases, family):
    """By hand, from the plain model's predictions: the first two of four steps are pulled."""
    case = cases(family)
    photo, levels = case.model.model.process_latent_in(case.samples), case.sigmas.tolist()
    start, eta = [], 0.7

    class First:
        """What the host makes of the noise at the first level."""

        def __call__(self, model, x, sigmas, **_):
            start.append(x)
            return x

    import comfy.samplers

    guider = guider_of(case.model, *case.prompts, CFG)
    guider.sample(case.noise, torch.zeros_like(case.noise), comfy.samplers.KSAMPLER(First()),
                  case.sigmas, seed=1)  # fmt: skip
    (x,) = start
    for i, (sigma, following) in enumerate(zip(levels, levels[1:])):
        v = (x - predict(guider_of(case.model, *case.prompts, CFG), x, sigma)) / sigma
        if i < 2:
            v = v + eta * ((x - photo) / sigma - v)
        x = x + (following - sigma) * v
    found = case.sample(case.pulled(strength=eta, end=0.5))
    assert relative(found, case.model.model.process_latent_out(x)) < 2e-5


def test_it_costs_no_row(sd):
    with spies.model_rows(sd.model) as rows:
        sd.sample(sd.pulled(keep_similar=0.5, **ALWAYS))
    assert [count for count, _ in rows] == [4] * 4


def test_outside_the_mask_nothing_is_pulled_at_the_first_step(sd):
    x, sigma = 10 * sd.noise, 10.0
    model = sd.pulled(strength=1.0, mask=left_half())
    plain, found = (predict(guider_of(m, *sd.prompts, CFG), x, sigma) for m in (sd.model, model))
    assert torch.equal(found[..., 4:], plain[..., 4:])
    photo = sd.model.model.process_latent_in(sd.samples).expand_as(found)
    assert torch.equal(found[..., :4], photo[..., :4])


def test_keep_similar_leaves_what_is_edited(sd):
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.editing.pull import similar

    x, sigma = 2 * sd.noise, 2.0
    plain, model = sd.model, sd.pulled(strength=0.8, keep_similar=0.6, **ALWAYS)
    plain, found = (predict(guider_of(m, *sd.prompts, CFG), x, sigma) for m in (plain, model))
    photo = sd.model.model.process_latent_in(sd.samples).expand_as(found)
    percent = 1 - host.timesteps_of(sd.model).t(sigma) / 1000
    keep = similar(plain, photo, 0.6 * percent)
    assert 0 < keep.mean() < 1
    torch.testing.assert_close(found, plain + 0.8 * keep * (photo - plain), rtol=0, atol=1e-5)


# Beside other nodes of the pack.


def blended(model, **inputs):
    from comfyui_rival.nodes import RivalBlendedGuidance

    widgets = {"outside": 1.0, "keep_photo": False, "prompt": "", "words": "", "threshold": 0.3,
               "blur": 1.0, "resolution": "auto", "mask": left_half()}  # fmt: skip
    return RivalBlendedGuidance.execute(model, **{**widgets, **inputs}).args[0]


def test_it_comes_after_blended_guidance_whatever_the_order_of_the_nodes(sd):
    x, sigma, settings = 5 * sd.noise, 5.0, {"strength": 0.6, **ALWAYS}
    models = [blended(sd.pulled(**settings)), sd.pulled(blended(sd.model), **settings)]
    first, second, low = (predict(guider_of(m, *sd.prompts, CFG), x, sigma)
                          for m in (*models, blended(sd.model)))
    assert torch.equal(first, second)
    photo = sd.model.model.process_latent_in(sd.samples)
    torch.testing.assert_close(first, low + 0.6 * (photo - low), rtol=0, atol=1e-5)


def test_it_comes_after_the_patchs_statistics_whatever_the_order_of_the_nodes(sd, chain):
    settings, sigma = {"strength": 1.0, **ALWAYS, "mask": left_half()}, chain.top
    models = [graph.patch(sd.pulled(**settings), chain),
              sd.pulled(graph.patch(sd.model, chain), **settings)]
    first, second, unpatched = (predict(guider_of(m, *sd.prompts, CFG), sigma * sd.noise, sigma)
                                for m in (*models, sd.pulled(**settings)))
    assert torch.equal(first, second)
    photo = sd.model.model.process_latent_in(sd.samples).expand_as(first)
    assert torch.equal(first[..., :4], photo[..., :4])
    assert relative(first[..., 4:], unpatched[..., 4:]) > 1e-2


def test_two_pulls_act_one_after_the_other(sd):
    right = 1 - left_half()
    other = tiny.latent(5, size=8)
    model = sd.pulled(strength=1.0, mask=left_half(), **ALWAYS)
    model = sd.pulled(model, latent=other, strength=1.0, mask=right, **ALWAYS)
    found = sd.sample(model)
    for half, photo in ((slice(0, 4), sd.samples), (slice(4, 8), other["samples"])):
        assert relative(found[..., half], photo[..., half].expand(2, -1, -1, -1)) < 1e-6


@pytest.mark.parametrize("order", ["pull last", "pull first"])
def test_where_the_photo_is_kept_anyway_is_said(sd, chain, caplog, order):
    def both(mask):
        kept = {"keep_photo": True, "chain": chain}
        if order == "pull last":
            sd.pulled(blended(sd.model, **kept), mask=mask)
        else:
            blended(sd.pulled(mask=mask), **kept)

    both(left_half())
    assert "keep_photo" not in caplog.text
    both(1 - left_half())
    node = "RIVAL Pull" if order == "pull last" else "RIVAL Blended Guidance"
    assert f"{node}: keep_photo of RIVAL Blended Guidance keeps the photo" in caplog.text


# Notices and refusals.


def refuses(node: str, said: str):
    return pytest.raises(ValueError, match=rf"^{node}: [^:]*{said}.*\.$")


def test_notices(sd, caplog):
    sd.pulled(start=0.3, end=0.3)
    sd.pulled(mask=torch.zeros(1, 8, 8))
    sd.pulled(latent={**sd.photo, "noise_mask": torch.ones(1, 8, 8)})
    for said in ("it would pull from 0.3 to 0.3", "the mask is empty", "the latent's noise_mask"):
        assert f"RIVAL Pull: {said}" in caplog.text


@pytest.mark.parametrize("inputs, said", [
    ({"latent": None}, "there is no photo"),
    ({"strength": 1.5}, "strength is 1.5"),
    ({"keep_similar": -0.5}, "keep_similar is -0.5"),
    ({"fade": "sine"}, "fade is 'sine'"),
    ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "all zeros"),
    ({"latent": {"samples": torch.ones(2, 4, 8, 8)}}, "batch of 2"),
    ({"latent": {"samples": torch.ones(1, 16, 8, 8)}}, "16 channels"),
    ({"mask": torch.ones(2, 8, 8)}, r"\[2, 8, 8\]"),
])  # fmt: skip
def test_what_cannot_be_pulled_to(sd, inputs, said):
    with refuses("RIVAL Pull", said):
        sd.pulled(**inputs)


def test_one_photo_and_of_the_size_that_is_sampled(sd, chain):
    with refuses("RIVAL Pull", "both latent and chain"):
        sd.pulled(chain=chain)
    with refuses("RIVAL Pull", r"the latent is \(8, 8\) and the photo to pull to \(12, 12\)"):
        sd.sample(sd.pulled(latent=tiny.latent(2, size=12)))


def test_a_pulled_model_cannot_invert(sd):
    with refuses("RIVAL Invert", "RIVAL Pull"):
        graph.invert(sd.pulled(), sd.photo, sd.prompts[0], steps=5)
