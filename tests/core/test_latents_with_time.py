"""Latents of five dimensions, [B, C, 1, H, W]: every function does what it does for images."""

from __future__ import annotations

from dataclasses import replace

import chain_files
import pytest
import torch
from comfyui_rival.rival_core.chain.chain import Chain
from comfyui_rival.rival_core.chain.file import load, save
from comfyui_rival.rival_core.chain.statistics import (
    MOST_LISTED,
    assumed,
    chance,
    gap_lines,
    measured,
    moments_table,
)
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import Solver, invert
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from comfyui_rival.rival_core.sampling.guidance import Blend, Keep
from comfyui_rival.rival_core.sampling.inpainting import Inpainting
from comfyui_rival.rival_core.sampling.noise import (
    STARTS,
    partial_latents,
    regional_start,
    start_latents,
)
from comfyui_rival.rival_core.steering.exemplar import Exemplar, statistics_inside
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.masks import resize_mask
from comfyui_rival.rival_core.steering.normalization import adain, statistics
from comfyui_rival.rival_core.steering.parts import find_part
from comfyui_rival.rival_core.steering.step import normalize_masked, with_exemplars
from made_chains import make_chain

SIZE = (6, 8)
MASK = torch.zeros(1, 12, 16)
MASK[:, 2:7, 3:11] = 1


@pytest.fixture(params=[4, 16, 128])
def chains(request) -> tuple[Chain, Chain]:
    """One chain of images' latents, and the same with a time of 1."""
    flat = make_chain(size=SIZE, channels=request.param)
    return flat, replace(flat, latents=flat.latents.unsqueeze(2))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(timed: torch.Tensor, flat: torch.Tensor) -> bool:
    """Whether they are the same numbers, and the one has a time of 1."""
    return timed.ndim == 5 and timed.shape[2] == 1 and torch.equal(timed.squeeze(2), flat)


def test_a_chain_says_its_size(chains):
    flat, timed = chains
    assert (flat.grid, timed.grid) == (SIZE, (1, *SIZE))
    assert flat.size == timed.size == Exemplar(timed).size == SIZE
    assert repr(timed) == repr(flat) and "latent 8 x 6" in repr(timed)


def test_statistics_are_over_all_but_batch_and_channel(chains):
    x = random(1, 2, *chains[0].latents.shape[1:])
    for mask in (None, MASK, torch.zeros(1, 12, 16)):
        of_timed, of_flat = statistics_inside(x.unsqueeze(2), mask), statistics_inside(x, mask)
        assert all(same(a, b) for a, b in zip(of_timed, of_flat))
        assert same(adain(x.unsqueeze(2), of_timed), adain(x, of_flat))
    video = random(2, 2, 3, 4, 5, 6)  # not (2, 3), which would be time and height
    assert torch.allclose(statistics(video).mean.flatten(), video.mean((2, 3, 4)).flatten())
    assert statistics(video).var.shape == (2, 3, 1, 1, 1)


def test_masks_and_weights(chains):
    flat, timed = chains
    like = random(3, 2, *flat.latents.shape[1:])
    assert same(resize_mask(MASK, like.unsqueeze(2)), resize_mask(MASK, like))
    pair = [[Exemplar(c, Gates(), 0.7, mask=m) for m in (MASK, None)] for c in (timed, flat)]
    parts = [[statistics(random(i, 1, *like.shape[1:])) for i in (5, 6)]]
    parts.insert(0, [type(p)(*(t.unsqueeze(2) for t in p)) for p in parts[0]])
    weighted = [[e.weights(x) for e in one] for one, x in zip(pair, (like.unsqueeze(2), like))]
    assert all(same(a, b) for a, b in zip(*weighted))
    mixed = [normalize_masked(x, p, e) for x, p, e in
             zip((like.unsqueeze(2), like), parts, pair)]  # fmt: skip
    assert same(*mixed)
    with pytest.raises(RivalError, match="a mask is for images"):
        resize_mask(MASK, random(4, 1, 4, 3, 8, 8))


def test_memory(chains):
    flat, timed = chains
    shape = [2, flat.latents.shape[1], 12, 8]
    plain = with_exemplars(shape, [Exemplar(flat)])
    assert with_exemplars([*shape[:2], 1, *shape[2:]], [Exemplar(timed)]) == [
        *plain[:2], 1, *plain[2:]]


@pytest.mark.parametrize("start", STARTS)
def test_starts(chains, start):
    flat, timed = chains
    for size in (SIZE, (4, 4)) if start != "inverted" else (SIZE,):
        there = start_latents(timed.end, (1, *size), [0, 2], 7, start)
        assert same(there, start_latents(flat.end, size, [0, 2], 7, start))
        others = [[Exemplar(c), Exemplar(o, mask=MASK)] for c, o in
                  ((timed, replace(timed, latents=timed.latents * 2)),
                   (flat, replace(flat, latents=flat.latents * 2)))]  # fmt: skip
        regional = regional_start(timed, others[0], (1, *size), [0, 2], 7, start)
        assert same(regional, regional_start(flat, others[1], size, [0, 2], 7, start))
    sigma = float(flat.sigmas[3])
    assert same(partial_latents(timed, sigma, [1], 7, start),
                partial_latents(flat, sigma, [1], 7, start))
    with pytest.raises(RivalError, match=r"size \(6, 8\), not \(4, 4\)"):
        start_latents(timed.end, (1, 4, 4), [0], 7, "inverted")


@pytest.mark.parametrize("is_photo", [True, False])
def test_inpainting(chains, is_photo):
    flat, _ = chains
    hole = resize_mask(MASK, flat.end)
    image = flat.clean if is_photo else random(8, *flat.clean.shape)
    plain = Inpainting(flat, image, hole, random(9, *image.shape))
    given = (chains[1], *(t.unsqueeze(2) for t in (image, hole, plain.noise)))
    timed = Inpainting(*given)
    assert timed.is_photo is plain.is_photo is is_photo
    for sigma in (flat.top, float(flat.sigmas[2])):
        assert same(timed.known(sigma), plain.known(sigma))
        assert same(timed.start(sigma, [0], 3, "shuffle"), plain.start(sigma, [0], 3, "shuffle"))


def test_guidance_by_mask(chains):
    flat, timed = chains
    a, b, c = (random(i, *flat.end.shape) for i in (1, 2, 3))
    up = [x.unsqueeze(2) for x in (a, b, c)]
    assert same(Blend(MASK, 2.0)(*up), Blend(MASK, 2.0)(a, b, c))
    keeps, sigma = (Keep(timed, MASK), Keep(flat, MASK)), float(flat.sigmas[2])
    assert same(keeps[0].enter(up[0], sigma), keeps[1].enter(a, sigma))
    assert same(keeps[0].leave(*up[:2], sigma), keeps[1].leave(a, b, sigma))


def test_parts():
    whole = random(1, 2, 4, 1, 8, 9)
    part = find_part(whole[1, :, :, 2:5, 3:9], whole)
    assert part.size == (8, 9)
    assert torch.equal(part.of(whole[1]), whole[1, :, :, 2:5, 3:9])


def test_the_report(chains):
    flat, timed = chains
    for of_timed, of_flat in zip((*measured(timed), *assumed(timed)),
                                 (*measured(flat), *assumed(flat))):  # fmt: skip
        assert torch.allclose(of_timed, of_flat, atol=1e-6)
    assert chance(timed) == chance(flat)
    assert len(gap_lines(timed)) <= MOST_LISTED + 2
    assert max(map(len, moments_table(timed).splitlines())) < 400


def test_many_channels_are_told_by_the_farthest():
    """64 channels: those that were moved are among the 16 in words."""
    chain = make_chain(size=(16, 16), channels=64)
    latents = torch.randn(chain.latents.shape, generator=torch.Generator().manual_seed(1))
    latents *= torch.tensor([chain.scaling.level(s) for s in chain.sigmas.tolist()])[:, None, None,
                                                                                    None]
    latents[-1, 33] += 50
    lines = gap_lines(replace(chain, latents=latents))
    assert len(lines) == MOST_LISTED + 2 and any("channel 33: mean +" in line for line in lines)
    assert "these 16 of 64 channels" in lines[-1]


@pytest.mark.parametrize("name", ["ddim", "anderson"])
def test_an_inversion(chains, name):
    """The solvers see flat samples, whatever their shape."""
    flat, timed = chains
    sigmas, solver = torch.linspace(0, 1, 6), Solver(name, 4, 0.0)
    found = [invert(lambda x, sigma: x.tanh() * (1 - sigma[0] / 2), x, sigmas, FlowScaling(),
                    solver).latents for x in (timed.clean, flat.clean)]  # fmt: skip
    assert all(torch.allclose(a.squeeze(2), b, atol=1e-6) for a, b in zip(*found))


def test_a_file(tmp_path):
    timed = chain_files.make_chain(latents=torch.randn(4, 16, 1, 2, 3))
    save(timed, tmp_path / "a.safetensors")
    assert chain_files.same(load(tmp_path / "a.safetensors").chain, timed)


def test_a_video_in_a_file_is_refused(tmp_path):
    video = chain_files.make_chain(latents=torch.randn(4, 16, 2, 2, 3))
    save(video, tmp_path / "a.safetensors")
    with pytest.raises(RivalError, match=r"holds a video"):
        load(tmp_path / "a.safetensors")
