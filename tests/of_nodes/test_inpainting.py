"""Inpainting: a hole in the photo, or in another image, filled along the photo's chain."""

from __future__ import annotations

import math
from functools import cache

import graph
import official
import pytest
import spies
import torch

pytestmark = [pytest.mark.host, pytest.mark.sampled]
TOLERANCE = 1e-4  # of the independent derivation
SIZE, SEED, SD = (8, 10), 7, 0.18215


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15", levels=1)
    return {"model": model, **encoded(model), "chains": {}}


def encoded(model) -> dict:
    import tiny

    empty, negative, caption = (tiny.conditioning(model, seed) for seed in (1, 2, 3))
    return {"empty": empty, "negative": negative, "caption": caption}


def image(seed: int, size=SIZE, batch: int = 1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 4, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return smooth + 0.2 * torch.randn(batch, 4, *size, generator=generator)


def chain_of(setup, steps: int = 10):
    if steps not in setup["chains"]:
        photo = {"samples": image(3)}
        setup["chains"][steps], _ = graph.invert(setup["model"], photo, setup["empty"], steps=steps)
    return setup["chains"][steps]


def hole(size=SIZE):
    """[1, H, W] in the latent's own size: a hole left of the middle."""
    mask = torch.zeros(1, *size)
    mask[:, 2:6, 1:6] = 1
    return mask


def masked(samples, mask) -> dict:
    """As Set Latent Noise Mask makes it."""
    return {"samples": samples, "noise_mask": mask[:, None]}


def fill(setup, latent, chain=None, patched=True, **inputs):
    chain = chain or chain_of(setup)
    model = graph.patch(setup["model"], chain) if patched else setup["model"]
    inputs = {"seed": SEED, "cfg": 7.0, **inputs}
    return graph.rival_sample(
        model, chain, setup["caption"], setup["negative"], latent=latent, **inputs
    )


def known(samples, mask):
    outside = (mask == 0).expand(len(samples), *mask.shape[1:])[:, None]
    return samples[outside.expand_as(samples)]


# --- the photo itself, as the paper does ---------------------------------------------------------


@pytest.fixture(scope="module")
def filled(setup):
    """What the nodes make of it, by the number of steps."""
    latent = masked(image(3), hole())
    return cache(lambda steps: SD * fill(setup, latent, chain_of(setup, steps)))


def run_official(setup, steps, mistakes=frozenset()):
    """The official setting: cfg 7, empty exemplar prompt, the hole shuffled within itself."""
    empty, negative, caption = (setup[name][0][0] for name in ("empty", "negative", "caption"))
    unet = setup["model"].model.diffusion_model
    z = official.invert(unet, SD * image(3), empty, steps)
    count = SIZE[0] * SIZE[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    inside = hole()[0] > 0
    start = official.shuffle_hole(z[-1], order, inside)
    if "known_late" in mistakes:
        start = official.shuffle(z[-1], order)
    return official.sample(
        *(unet, z, start, empty, negative, empty, caption, steps), 7.0, hole=inside,
        mistakes=mistakes,
    )


def test_parity(setup, filled):
    error = graph.relative(filled(20), run_official(setup, 20))
    print(f"relative error {error:.1e}")
    assert error < TOLERANCE


@pytest.mark.any_host
@pytest.mark.parametrize("mistake", ["known_lag", "known_late", "no_injection", "no_adain"])
def test_mistakes_would_be_noticed(setup, filled, mistake):
    wrong = run_official(setup, 10, {mistake})
    assert graph.relative(filled(10), wrong) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "sampler", ["euler", "dpmpp_2m", "euler_ancestral", "lcm", "heun", "uni_pc"]
)
def test_what_is_known_stays_and_the_hole_does_not(setup, sampler):
    latent = masked(image(3), hole())
    filled = fill(setup, latent, sampler_name=sampler)
    torch.testing.assert_close(known(filled, hole()), known(latent["samples"], hole()))
    assert graph.relative(filled, latent["samples"]) > 0.1


def test_what_is_known_follows_the_chain_at_every_call(setup):
    """Also at the sigmas between the chain's own, which heun does not ask for but dpm_2 does."""
    chain, seen = chain_of(setup), []
    model = graph.patch(setup["model"], chain).clone()

    def watch(apply_model, call):
        seen.append((call["input"], float(call["timestep"][0])))
        return apply_model(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    latent = masked(image(3), hole())
    for sampler in ("euler", "dpm_2"):
        graph.rival_sample(model, chain, setup["caption"], setup["negative"], seed=SEED,
                           sampler_name=sampler, latent=latent)
    generated = [(x, sigma) for x, sigma in seen if len(x) == 2]
    assert len({sigma for _, sigma in generated}) > len(chain.sigmas)
    for x, sigma in generated:
        expected = chain.at(sigma).expand_as(x)
        torch.testing.assert_close(known(x, hole()), known(expected, hole()), rtol=1e-4, atol=1e-4)


def test_an_inpainted_batch_is_its_items_alone(setup):
    latent = masked(image(3), hole())
    batch = fill(setup, latent, batch_size=3)
    assert graph.relative(batch[0], batch[1]) > 0.05
    for i in range(3):
        alone = fill(setup, {**latent, "batch_index": [i]})
        assert graph.relative(alone, batch[i : i + 1]) < 1e-5
    masks = torch.cat([hole(), hole().flip(2), torch.ones_like(hole())])
    several = fill(setup, masked(image(3).repeat(3, 1, 1, 1), masks))
    assert graph.relative(several[0], batch[0]) < 1e-5
    torch.testing.assert_close(known(several[1:2], masks[1:2]), known(image(3), masks[1:2]))


def test_a_full_mask_is_none_and_an_empty_one_gives_the_image_back(setup, caplog):
    plain = fill(setup, {"samples": image(3)})
    full = fill(setup, masked(image(3), torch.ones(1, *SIZE)))
    assert graph.relative(full, plain) < 1e-5
    empty = fill(setup, masked(image(3), torch.zeros(1, *SIZE)))
    torch.testing.assert_close(empty, image(3))
    assert "noise_mask is empty" in caplog.text


def test_the_mask_is_laid_on_the_latent_as_core_does(setup):
    pixels = torch.nn.functional.interpolate(hole()[None], scale_factor=8, mode="nearest")[0]
    assert torch.equal(fill(setup, masked(image(3), pixels)), fill(setup, masked(image(3), hole())))


def test_a_greyed_hole_is_the_photo_still(setup):
    """VAE Encode (for Inpainting): the hole's content is gone, and around it a little changed."""
    latent = image(3)
    grey = torch.where(hole()[:, None] > 0, torch.zeros(()), latent)
    grey = grey + 0.05 * image(5)
    filled = fill(setup, masked(grey, hole()))
    torch.testing.assert_close(known(filled, hole()), known(grey, hole()))
    assert graph.relative(filled, fill(setup, masked(latent, hole()))) < 0.2


# --- soft masks ----------------------------------------------------------------------------------


def ramp():
    return torch.linspace(0, 1, SIZE[1]).expand(1, *SIZE).contiguous()


def test_a_soft_mask_changes_more_where_it_is_higher(setup):
    filled = fill(setup, masked(image(3), ramp()))
    moved = (filled - image(3)).square().mean(dim=(0, 1, 2))
    assert torch.equal(filled[..., 0], fill(setup, masked(image(3), ramp()))[..., 0])
    torch.testing.assert_close(filled[..., 0], image(3)[..., 0])
    thirds = [part.mean() for part in moved.tensor_split(3)]
    assert 1e-4 < thirds[0] < thirds[1] < thirds[2]


def test_differential_diffusion_decides_at_every_step(setup):
    """Its mask opens place by place: at a step, those whose value is above what is left to go."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
    from composing import run_node

    chain, seen = chain_of(setup), []
    model = run_node(DifferentialDiffusion, graph.patch(setup["model"], chain))[0]
    decide = model.model_options["denoise_mask_function"]

    def watch(sigma, mask, **kwargs):
        seen.append(decide(sigma, mask, **kwargs))
        return seen[-1]

    model.set_model_denoise_mask_function(watch)
    latent = masked(image(3), ramp())
    filled = graph.rival_sample(model, chain, setup["caption"], setup["negative"], seed=SEED,
                                latent=latent)
    opened = [float(mask.mean()) for mask in seen]
    assert len(opened) == chain.steps and opened == sorted(opened) and opened[0] < 0.2
    torch.testing.assert_close(filled[..., 0], image(3)[..., 0])
    assert graph.relative(filled, fill(setup, latent)) > 0.01


# --- another image -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "start"), [(SIZE, "shuffle"), ((6, 12), "gaussian")])
def test_another_image_is_known_as_core_knows_it(setup, size, start):
    """The known part equals core's inpainting of it, bit for bit and noise for noise."""
    latent, chain = masked(image(9, size), hole(size)), chain_of(setup)
    filled = fill(setup, latent, start=start)
    torch.testing.assert_close(known(filled, hole(size)), known(latent["samples"], hole(size)))
    assert graph.relative(filled, fill(setup, latent, seed=8, start=start)) > 0.05
    plain = fill(setup, latent, start=start, patched=False)
    assert graph.relative(filled, plain) > 0.01, "the photo was not read"
    with spies.model_rows(setup["model"]) as rows:
        fill(setup, latent, start=start, patched=False)
    assert len(rows) == chain.steps + 1, "it ends at noise level 0, like core's inpainting"


def test_the_known_noise_of_another_image_is_the_hosts(setup):
    import comfy.sample
    from comfyui_rival.nodes.start import inpainting

    samples = image(9)
    filling = inpainting(setup["model"], chain_of(setup), masked(samples, hole()), SEED, [0])
    assert not filling.is_photo
    noise = comfy.sample.prepare_noise(samples, SEED)
    torch.testing.assert_close(filling.known(3.0), SD * samples + 3.0 * noise)


# --- a part of the way ---------------------------------------------------------------------------


def test_less_denoise_stays_nearer_in_the_hole(setup):
    for samples in (image(3), image(9)):
        latent = masked(samples, hole())
        away = [graph.relative(fill(setup, latent, denoise=d), samples) for d in (0.1, 0.5, 1.0)]
        assert 0 < away[0] < away[1] < away[2]


def test_fresh_noise_in_the_hole_only(setup):
    latent = masked(image(3), hole())
    a, b = (fill(setup, latent, eta=0.5, start="inverted", seed=seed) for seed in (1, 2))
    assert graph.relative(a, b) > 0.01
    torch.testing.assert_close(known(a, hole()), known(image(3), hole()))


def test_core_inpainting_with_our_noise_keeps_what_is_known(setup):
    """RIVAL Noise and RIVAL Sigmas, ending at zero, on a latent with a mask."""
    import comfy.samplers
    from comfyui_rival.nodes import RivalNoise, RivalSigmas

    chain, latent = chain_of(setup), masked(image(3), hole())
    noise = RivalNoise.execute(chain, 1, "shuffle").args[0].generate_noise(latent)
    sigmas = RivalSigmas.execute(chain, True).args[0]
    guider = comfy.samplers.CFGGuider(graph.patch(setup["model"], chain))
    guider.set_conds(setup["caption"], setup["negative"])
    guider.set_cfg(5.0)
    filled = guider.sample(noise, latent["samples"], comfy.samplers.sampler_object("euler"), sigmas,
                           denoise_mask=latent["noise_mask"], seed=1)
    torch.testing.assert_close(known(filled, hole()), known(image(3), hole()))
    assert graph.relative(filled, image(3)) > 0.1


# --- a checkpoint made for it, and bad input -----------------------------------------------------


def test_a_checkpoint_made_for_inpainting_sees_the_hole():
    """Its nine channels: the photo's own call has a full mask, the generated rows the real one."""
    import tiny

    model = tiny.build("sd15_inpaint", levels=1)
    prompts = encoded(model)
    chain, _ = graph.invert(model, {"samples": image(3)}, prompts["empty"], steps=5)
    rows, watched = [], graph.patch(model, chain).clone()

    def watch(apply_model, call):
        rows.append((len(call["input"]), call["c"]["c_concat"][:, 0]))
        return apply_model(call["input"], call["timestep"], **call["c"])

    watched.set_model_unet_function_wrapper(watch)
    filled = graph.rival_sample(watched, chain, prompts["caption"], prompts["negative"],
                                latent=masked(image(3), hole()))
    torch.testing.assert_close(known(filled, hole()), known(image(3), hole()))
    for count, mask in rows:
        assert torch.equal(mask, (hole() if count == 2 else torch.ones(1, *SIZE)).expand_as(mask))


@pytest.mark.parametrize("samples, mask, said", [
    (torch.ones(1, 16, 8, 10), hole(), "16 channels"),
    (torch.full((1, 4, 8, 10), math.nan), hole(), "latent to be inpainted.*NaN"),
    (torch.ones(1, 4, 8, 10), torch.full((1, 8, 10), math.inf), "noise_mask to be inpainted"),
    (torch.ones(1, 4, 8, 10), torch.zeros(1, 0, 10), "noise_mask to be inpainted is empty"),
])
def test_bad_input(setup, samples, mask, said):
    with pytest.raises(ValueError, match=rf"^RIVAL KSampler: .*{said}.*\.$"):
        fill(setup, masked(samples, mask))


def test_a_mask_of_none_is_no_mask(setup):
    latent = {"samples": image(9), "noise_mask": None}
    assert torch.equal(fill(setup, latent), fill(setup, {"samples": image(9)}))


def test_the_mask_travels_on_for_a_second_pass(setup):
    from comfyui_rival.nodes import RivalKSampler

    latent = {**masked(image(3), hole()), "batch_index": [4]}
    chain = chain_of(setup)
    output = RivalKSampler.execute(
        setup["model"], chain, setup["caption"], setup["negative"], 0, 1.0, "euler", "shuffle", 2,
        1.0, 0.0, 0.0, 1.0, latent=latent,
    ).args[0]
    assert output["noise_mask"] is latent["noise_mask"] and output["batch_index"] == [4, 5]
