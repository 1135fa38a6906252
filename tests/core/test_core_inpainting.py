"""A hole along a photo's chain: what is known at a sigma, and where the hole starts."""

from __future__ import annotations

import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
from comfyui_rival.rival_core.inversion.scaling import FlowScaling, Scaling
from comfyui_rival.rival_core.sampling.inpainting import Inpainting, shuffled_within
from comfyui_rival.rival_core.sampling.noise import start_latents

SIZE = (8, 10)
SCALINGS = {"eps": Scaling(sigma_max=14.6), "flow": FlowScaling()}
SIGMAS = {"eps": (0.03, 0.7, 3.0, 12.0), "flow": (0.05, 0.3, 0.6, 0.95)}


def random(seed, batch=1, size=SIZE):
    return torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(seed))


def chain_of(kind="eps"):
    """A photo and its noise on their straight line, as a good inversion's nearly are."""
    scaling, sigmas = SCALINGS[kind], torch.tensor(SIGMAS[kind])
    photo, noise = random(1), random(2)
    latents = [scaling.clean_share(float(s)) * photo + float(s) * noise for s in sigmas]
    return Chain(sigmas, torch.cat(latents), scaling, ModelCard("SD15", "SD15", ()), positive=[])


def hole(size=SIZE):
    mask = torch.zeros(1, 1, *size)
    mask[..., 2:6, 1:6] = 1
    return mask


def inpainting(image, mask=None, kind="eps"):
    mask = hole(tuple(image.shape[2:])) if mask is None else mask
    return Inpainting(chain_of(kind), image, mask, random(3, *image.shape[:1], image.shape[2:]))


def values(latents, mask):
    """The channel vectors under a mask, as rows."""
    return latents.permute(0, 2, 3, 1)[(mask > 0)[:, 0].expand(len(latents), -1, -1)]


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_photo_is_known_by_its_chain(kind):
    filling = inpainting(chain_of(kind).clean, kind=kind)
    assert filling.is_photo
    for sigma, latent in zip(filling.chain.sigmas.tolist(), filling.chain.latents):
        torch.testing.assert_close(filling.known(sigma)[0], latent)


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_photo_changed_a_little_is_known_as_it_is(kind):
    """With the chain's noise: known = its share of the image + sigma * that noise."""
    changed = chain_of(kind).clean + 0.1 * random(4)
    filling, sigma = inpainting(changed, kind=kind), SIGMAS[kind][2]
    assert filling.is_photo
    noise = (filling.chain.at(sigma) - filling.chain.scaling.clean_share(sigma) *
             filling.chain.clean) / sigma
    expected = filling.chain.scaling.clean_share(sigma) * changed + sigma * noise
    torch.testing.assert_close(filling.known(sigma), expected)


def test_what_counts_as_the_photo_is_what_is_known_of_it():
    photo, other = chain_of().clean, random(9)
    assert inpainting(torch.where(hole() > 0, other, photo)).is_photo
    assert not inpainting(torch.where(hole() > 0, photo, other)).is_photo
    assert not inpainting(photo[:, :, 1:]).is_photo
    assert inpainting(other, torch.ones_like(hole())).is_photo, "nothing of it is known"


@pytest.mark.parametrize("kind", SCALINGS)
def test_another_image_is_known_under_unit_noise(kind):
    filling, sigma = inpainting(random(9), kind=kind), SIGMAS[kind][1]
    share = filling.chain.scaling.clean_share(sigma)
    torch.testing.assert_close(filling.known(sigma), share * random(9) + sigma * random(3))


@pytest.mark.parametrize("image", ["photo", "another"])
@pytest.mark.parametrize("start", ["shuffle", "gaussian", "inverted"])
def test_the_start_is_known_outside_the_hole_and_drawn_inside(image, start):
    filling = inpainting(chain_of().clean if image == "photo" else random(9))
    latents = filling.start(filling.chain.top, [0, 1], 5, start)
    outside = 1 - hole()
    known = filling.known(filling.chain.top).expand(2, -1, -1, -1)
    assert torch.equal(values(latents, outside), values(known, outside))
    vectors = {tuple(v) for v in values(filling.chain.end, torch.ones_like(hole())).tolist()}
    drawn = values(latents, hole()).tolist()
    assert all(tuple(v) in vectors for v in drawn) == (start != "gaussian")
    within = {tuple(v) for v in values(filling.chain.end, hole()).tolist()}
    if start == "shuffle":
        assert ({tuple(v) for v in drawn} <= within) == (image == "photo")
    assert torch.equal(latents[0], latents[1]) == (start == "inverted")


def test_below_the_top_the_hole_keeps_the_image_under_its_noise():
    photo, sigma = chain_of().clean, 3.0
    filling = inpainting(photo + torch.where(hole() > 0, random(6), torch.zeros(())))
    inverted = filling.start(sigma, [0], 5, "inverted")
    expected = filling.image + filling.chain.at(sigma) - photo
    torch.testing.assert_close(inverted, expected)
    shuffled = (filling.start(sigma, [0], 5, "shuffle") - filling.image) / sigma
    noise = (filling.chain.at(sigma) - photo) / sigma
    torch.testing.assert_close(values(shuffled, hole()).sort(dim=0).values,
                               values(noise, hole()).sort(dim=0).values)


def test_a_soft_edge_belongs_to_the_hole_from_one_half_on():
    mask = torch.linspace(0, 1, SIZE[1]).expand(1, 1, *SIZE)
    filling = inpainting(chain_of().clean, mask)
    moved = filling.start(12.0, [0], 5, "gaussian") != filling.known(12.0)
    moved = moved.any(dim=1)[0].all(dim=0)
    assert moved.tolist() == (mask[0, 0, 0] >= 0.5).tolist()


def test_holes_are_shuffled_within_themselves():
    end = torch.arange(80.0).view(1, 1, *SIZE).repeat(1, 2, 1, 1)
    inside = hole()[0].bool()
    holes = torch.stack([inside, ~inside, inside, torch.ones_like(inside)])
    out = shuffled_within(end, holes, [0, 1, 2, 0], 5)
    for item, mask in zip(out, holes[:, 0]):
        assert torch.equal(item[0], item[1])
        assert torch.equal(item[0][~mask], end[0, 0][~mask])
        assert not torch.equal(item[0][mask], end[0, 0][mask])
        assert torch.equal(item[0][mask].sort().values, end[0, 0][mask].sort().values)
    assert not torch.equal(out[0], out[2])
    assert torch.equal(out[3:], start_latents(end, SIZE, [0], 5, "shuffle"))
