"""The diffusers engine on a Flux transformer by itself: what must hold of RIVAL on flows."""

from __future__ import annotations

import pytest
import torch
from comfyui_rival.rival_core.diffusers import engine, joint
from comfyui_rival.rival_core.diffusers.flow import FlowModel, packed, unpacked
from comfyui_rival.rival_core.diffusers.model import Prompt
from comfyui_rival.rival_core.diffusers.port import hooked
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from tiny_diffusers import (
    SCHEDULER,
    build,
    build_flux,
    diffusers,
    flux_prompt,
    photo,
    relative,
)  # fmt: skip

EMPTY, NEGATIVE, CAPTION = (flux_prompt(seed) for seed in (1, 2, 3))
LONGER = flux_prompt(4, tokens=9)
STEPS = 5
MODES = {"replace": 1.0, "concat": 0.0}
SIGMA = 0.7


@pytest.fixture(scope="module")
def model():
    return FlowModel(build_flux(), SCHEDULER)


@pytest.fixture(scope="module")
def chain(model):
    return engine.invert(model, photo(), LONGER, STEPS)


@pytest.fixture(scope="module")
def solved(model):
    return engine.invert(model, photo(), EMPTY, 20, solver=Solver("anderson", 10, 1e-6))


def sample(model, chain, *exemplars, **options):
    given = {"seed": 7, "cfg": 3.0, **options}
    return engine.sample(model, chain, exemplars, CAPTION, NEGATIVE, **given)


def step(model, chain, *exemplars, x=None, prompt=None, cfg=1.0, negative=None):
    """One step from a latent, by default the photo's own under its own prompt, at its top."""
    start = chain.end if x is None else x
    sigmas = chain.falling_sigmas()[:2]
    return engine.sample_euler(
        model, start, sigmas, prompt or chain.positive, negative, cfg, exemplars
    )


@torch.no_grad()
def kept(model, x, prompt):
    """What the photo's call keeps of the first layer, where a key knows its own patch alone."""
    recorder = model.recorder(["positive"], x)
    with hooked(model) as hooks, hooks.acting(recorder):
        model.denoise(x, SIGMA, [prompt])
    tokens = recorder.tokens["positive"]
    assert tokens.keys() == model.layers.keys()
    return tokens[min(tokens)]


def test_hooked_attention_is_the_transformers_own(model):
    x = photo(6, 10).repeat(2, 1, 1, 1)
    with torch.no_grad(), hooked(model) as hooks:
        plain = model.denoise(x, SIGMA, [CAPTION, NEGATIVE])
        with hooks.acting(lambda layer, k, v, attend: attend(k, v)):
            ours = model.denoise(x, SIGMA, [CAPTION, NEGATIVE])
    assert relative(torch.cat(ours), torch.cat(plain)) < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_the_photo_itself_changes_nothing(model, chain, mode, monkeypatch):
    """At equal places, since every key is there as often as before; the text's, too."""
    gates = Gates(replace_end=MODES[mode], normalize_end=0.0)
    plain, steered = step(model, chain), Exemplar(chain, gates, positions="same")
    assert relative(step(model, chain, steered), plain) < 1e-6
    assert relative(step(model, chain, Exemplar(chain, gates)), plain) > 1e-3

    def naive(own, images, photos, sets, replace):
        return torch.cat([own, photos[0].expand(len(own), -1, -1, -1)], dim=-2)

    if mode == "concat":
        monkeypatch.setattr(joint, "arranged_rows", naive)
        assert relative(step(model, chain, steered), plain) > 1e-3


def test_every_row_reads_the_photo_of_its_own_prompt(model):
    """At a guidance, the two prompts in one call; swapped rows would differ."""
    x, gates = photo(), Gates(normalize_end=0.0)
    pair, swapped = (
        engine.invert(model, x, *prompts, STEPS, prompts_of_negative)
        for prompts, prompts_of_negative in (((CAPTION,), NEGATIVE), ((NEGATIVE,), CAPTION))
    )
    given = {"x": pair.end, "prompt": CAPTION, "cfg": 3.0, "negative": NEGATIVE}
    plain = step(model, pair, **given)
    exemplar = Exemplar(pair, gates, positions="same")
    assert relative(step(model, pair, exemplar, **given), plain) < 1e-5
    object.__setattr__(swapped, "latents", pair.latents)
    exemplar = Exemplar(swapped, gates, positions="same")
    assert relative(step(model, pair, exemplar, **given), plain) > 1e-2


def test_moved_keys_are_the_keys_of_an_image_that_lies_there(model):
    """Against the transformer itself: the right half of a wide image, and the photo put beside."""
    wide = photo(8, 16)
    whole = kept(model, wide, CAPTION)
    right = kept(model, wide[..., 8:], CAPTION)
    target = joint.Target(model.transformer.pos_embed, (4, 4))
    chain = engine.invert(model, wide[..., 8:], CAPTION, STEPS)
    moved = target.place(Exemplar(chain, positions="beside"), right).context
    there = whole.context.unflatten(-2, (4, 8))[..., 4:, :].flatten(-3, -2)
    assert relative(moved, there) < 1e-6 < 1e-2 < relative(right.context, there)
    shuffled = target.place(Exemplar(chain, positions="shuffled"), right).context
    assert relative(shuffled, there) > 1e-2 and relative(shuffled, right.context) > 1e-2
    assert target.place(Exemplar(chain, positions="same"), right) is right


def test_what_is_kept_are_the_keys_of_the_image(model):
    x, other = photo(), photo()
    other[..., -1, -1] += 1
    before, after = (kept(model, one, CAPTION) for one in (x, other))
    assert before.count == 16
    changed = (before.value != after.value).any(dim=1).any(dim=-1)
    assert changed.nonzero().tolist() == [[0, 15]]
    text = Prompt(LONGER.tokens, CAPTION.pooled)
    assert torch.equal(kept(model, x, text).value, before.value)


def test_latents_and_tokens():
    """A token is a patch of 2 x 2, its numbers channel by channel, as in diffusers' pipeline."""
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = packed(x)
    assert torch.equal(tokens[1, 4], x[1, :, 2:4, 2:4].flatten())
    assert torch.equal(unpacked(tokens, (2, 3)), x)


@pytest.mark.parametrize("exemplar", [{"strength": 0.0}, {"gates": Gates(0.0, 0.0, 0.0, 0.0)}])
def test_injecting_nothing_is_plain_sampling_bitwise(model, chain, exemplar):
    plain = sample(model, chain)
    assert torch.equal(sample(model, chain, Exemplar(chain, **exemplar)), plain)
    assert relative(sample(model, chain, Exemplar(chain)), plain) > 0.1


@pytest.mark.parametrize("gates", [Gates(replace_end=0.0), Gates(replace_end=1.0)])
def test_strength_goes_smoothly_from_plain_to_rival(model, chain, gates):
    none, little, half, much, all_ = (
        sample(model, chain, Exemplar(chain, gates, strength))
        for strength in (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0)
    )
    assert relative(little, none) < 1e-4 and relative(much, all_) < 1e-4
    assert relative(half, none) > 1e-2 and relative(half, all_) > 1e-2


@pytest.mark.parametrize("ends", ["well", "in an error", "in a callback"])
def test_the_transformer_gets_its_own_processors_back(model, chain, ends):
    before = model.transformer.attn_processors

    def stop(state):
        assert model.transformer.attn_processors != before, "nothing was hooked"
        if ends == "in a callback":
            raise KeyboardInterrupt

    def fail(*_):
        if ends == "in an error":
            raise RuntimeError

    handle = model.transformer.norm_out.register_forward_pre_hook(fail)
    try:
        sample(model, chain, Exemplar(chain), callback=stop)
        assert ends == "well"
    except (RuntimeError, KeyboardInterrupt):
        assert ends != "well"
    finally:
        handle.remove()
    after = model.transformer.attn_processors
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)


@pytest.mark.parametrize("size", [None, (6, 10)])
def test_variations_are_single_runs_side_by_side(model, chain, size):
    batch = sample(model, chain, Exemplar(chain), draws=range(2), size=size)
    assert batch.shape[2:] == (size or (8, 8))
    for i in range(2):
        single = sample(model, chain, Exemplar(chain), draws=[i], size=size)
        assert relative(single[0], batch[i]) < 1e-5
    assert relative(batch[0], batch[1]) > 0.1


def test_a_solved_chain_walks_back_to_the_photo(model, solved):
    assert solved.sigmas[0] == 0 and solved.sigmas[-1] == 1
    back = engine.sample_euler(model, solved.end, solved.falling_sigmas(), EMPTY)
    assert relative(back, photo()) < 1e-4
    assert relative(engine.invert(model, photo(), EMPTY, 20).end, solved.end) > 1e-2


def test_the_mean_stays_the_photos_for_as_long_as_the_velocity_is_normalised(model, solved):
    """From a shuffled start, whatever the guidance, at every step of the window and after none."""
    means = []
    for gates in (Gates(normalize_end=1.0), Gates(normalize_end=0.0)):
        gaps = []

        def watch(state, gaps=gaps):
            levels = solved.falling_sigmas().tolist()
            wanted = solved.at(levels[state["i"] + 1]).mean(dim=(2, 3))
            gaps.append(float((state["x"].mean(dim=(2, 3)) - wanted).abs().max()))

        sample(model, solved, Exemplar(solved, gates), callback=watch)
        means.append(max(gaps))
    assert means[0] < 1e-4 < 0.1 < means[1], means


@pytest.mark.parametrize("scheduler, mu", [
    (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), None),
    (SCHEDULER, 0.6),
    (diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type="linear"), 2.0),
])  # fmt: skip
def test_the_schedule_is_the_schedulers(model, scheduler, mu):
    """Given the times that a pipeline gives it; gates are shares of the steps, however bent."""
    found = FlowModel(model.transformer, scheduler, mu)
    scheduler.set_timesteps(sigmas=[1 - i / 8 for i in range(8)], mu=mu)
    sigmas = found.schedule(8)
    assert torch.allclose(sigmas, scheduler.sigmas, atol=1e-6)
    times = [found.timesteps.t(sigma) for sigma in sigmas.tolist()]
    assert times == pytest.approx([1000 - 125 * i for i in range(9)], abs=1e-3)


def test_guidance_is_embedded_where_there_is_one(model):
    strong = Prompt(CAPTION.tokens, CAPTION.pooled, guidance=7.0)
    without = FlowModel(build_flux(guidance_embeds=False), SCHEDULER)
    for one, differs in ((model, True), (without, False)):
        with torch.no_grad():
            weak, other = (one.denoise(photo(), SIGMA, [p])[0] for p in (CAPTION, strong))
        assert (relative(other, weak) > 1e-3) is differs


def test_chains_are_float32_whatever_the_model_runs_in(model, chain):
    half = FlowModel(build_flux().half(), SCHEDULER)
    other = engine.invert(half, photo(), LONGER, STEPS)
    assert other.latents.dtype == torch.float32 and relative(other.latents, chain.latents) < 0.1
    out = sample(half, other, Exemplar(other), draws=range(2))
    assert out.dtype == torch.float32 and torch.isfinite(out).all()


def test_what_cannot_be_served_is_refused(model, chain):
    eps, terminal = diffusers.DDIMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler
    for words, attempt in {
        "UNet2DConditionModel is not supported": lambda: FlowModel(build(), SCHEDULER),
        "16 channels and gives 4": lambda: FlowModel(build_flux(out_channels=4), SCHEDULER),
        "DDIMScheduler is not supported": lambda: FlowModel(model.transformer, eps),
        "without shift_terminal": lambda: FlowModel(
            model.transformer, terminal(shift_terminal=0.1)),
        "texts of .6, 9. tokens": lambda: engine.sample(model, chain, [], CAPTION, LONGER),
        "give Prompt a pooled": lambda: engine.invert(model, photo(), Prompt(EMPTY.tokens)),
        "is 8 x 7: give it an even": lambda: engine.invert(model, photo(7, 8), EMPTY),
        "steps is 0": lambda: engine.invert(model, photo(), EMPTY, 0),
        "another model's": lambda: engine.sample(
            FlowModel(build_flux(num_layers=1), SCHEDULER), chain, [], CAPTION),
    }.items():  # fmt: skip
        with pytest.raises(RivalError, match=words):
            attempt()
