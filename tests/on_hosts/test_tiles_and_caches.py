"""Nodes between the guider and the model: the photo's calls stay whole, each tile its own part."""

from __future__ import annotations

import graph
import others
import pytest
import spies
import torch
from composing import (
    assert_close,
    chain_of,
    guider_of,
    latent,
    model_of,
    predict,
    prompt,
    prompts,
)

pytestmark = [pytest.mark.host, pytest.mark.sampled]
SIGMA = 2.0
NO_STATISTICS = {"normalize_end": 0.0}  # of the whole image, which no tile has
RIGHT = (slice(None), slice(None), slice(None), slice(8, 16))


def left(columns: int = 8) -> torch.Tensor:
    """A mask of the image's latent size, 1 in so many columns."""
    return (torch.arange(16) < columns).float().expand(1, 16, 16)


def image(height=16, width=16) -> torch.Tensor:
    return SIGMA * torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(5))


def predicted(model, x, positive=None, cfg=4.0):
    conds = prompts() if positive is None else {**prompts(), "positive": positive}
    return predict(guider_of(model, **conds, cfg=cfg), x, SIGMA)


def steered(chain, **inputs):
    return graph.patch(model_of("sd15"), chain, **{**NO_STATISTICS, **inputs})


# --- step caches ---------------------------------------------------------------------------------

CACHES = {
    "function": {},
    "diffusion model": {"kind": "diffusion_model", "key": "theirs"},
    "apply model": {"kind": "apply_model", "key": "theirs"},
    "without a key": {"kind": "apply_model"},
    "cond batch": {"kind": "calc_cond_batch", "key": "theirs"},
}
TO_THE_END = {"normalize_end": 1.0}


@pytest.mark.parametrize(
    "name, order",
    [*((name, "cache first") for name in CACHES),
     *((name, "patch first") for name in ("function", "cond batch"))],
)
def test_the_photos_calls_are_neither_counted_nor_kept(name, order, monkeypatch, caplog):
    """Wrappers of one kind nest as they were added, and the patch has one around the cond batch."""
    chain = chain_of(levels=1)

    def run(every):
        def cache(model):
            return others.step_cache(model, every, **CACHES[name])

        model = model_of("sd15", levels=1)
        if order == "cache first":
            model = graph.patch(cache(model), chain, **TO_THE_END)
        else:
            model = cache(graph.patch(model, chain, **TO_THE_END))
        with spies.exemplar_calls(monkeypatch) as calls, spies.model_rows(model) as rows:
            samples = graph.rival_sample(model, chain, **prompts())
        return samples, {sigma: x[0] for _, sigma, x in calls}, [n for n, _ in rows]

    plain = graph.patch(model_of("sd15", levels=1), chain, **TO_THE_END)
    (always, every, rows), (_, some, fewer) = run(1), run(2)
    with spies.photos_apart():
        assert torch.equal(always, graph.rival_sample(plain, chain, **prompts()))
    assert rows == [1, 2] * 5
    if name != "diffusion model":  # which is inside of what is counted
        assert fewer == [1, 2, 1, 1, 2, 1, 1, 2], "the image's calls are halved, the photo's made"
    assert every.keys() == some.keys() and len(every) == 5
    assert all(torch.equal(some[sigma], every[sigma]) for sigma in some)
    told = [m for m in caplog.messages if "so the photo goes without" in m]
    assert len(told) == 2 and all("step_cache" in m for m in told), "once a run"


@pytest.mark.parametrize("name", CACHES)
def test_an_inversion_and_its_way_back_go_without(name, caplog):
    from comfyui_rival.nodes import RivalReconstruct

    photo, plain = {"samples": latent(100)}, model_of("sd15", levels=1)
    cached = others.step_cache(plain, **CACHES[name])
    chain = graph.invert(cached, photo, prompt("sd15", 1), steps=5)[0]
    assert torch.equal(chain.latents, chain_of(levels=1).latents)
    assert any(m.startswith("RIVAL Invert: ") and "step_cache" in m for m in caplog.messages)
    back = RivalReconstruct.execute(cached, chain).args[0]["samples"]
    assert torch.equal(back, RivalReconstruct.execute(plain, chain).args[0]["samples"])


def test_an_inversion_goes_without_tiles_and_windows():
    photo = {"samples": latent(100, 16, 16)}
    plain = chain_of(height=16, width=16)
    for model in (others.tiler(model_of("sd15")), others.windows(model_of("sd15"), length=8)):
        chain = graph.invert(model, photo, prompt("sd15", 1), steps=5)[0]
        assert torch.equal(chain.latents, plain.latents)


def test_a_model_that_does_not_run_without_its_wrapper_is_refused_in_a_sentence():
    def needed(apply, call):
        raise AssertionError("never called for the photo")

    model = model_of("sd15").clone()
    model.set_model_unet_function_wrapper(needed)

    def fails(*args, **kwargs):
        raise RuntimeError("expected 8 channels, but got 4\nmore lines")

    model.add_object_patch("diffusion_model.forward", fails)
    said = r"^RIVAL Invert: .*\(expected 8 channels, but got 4\) without .*needed, .*\.$"
    with pytest.raises(ValueError, match=said):
        graph.invert(model, {"samples": latent(100)}, prompt("sd15", 1), steps=5)


# --- tiles ---------------------------------------------------------------------------------------

TILERS = {
    "one by one": {},
    "all at once": {"batch": 4},
    "prompt by prompt": {"batch": 4, "by_prompt": True},
    "two at once": {"batch": 2, "by_prompt": True},
}


def tiles(x, size=8):
    places = [(i, j) for i in range(0, x.shape[2], size) for j in range(0, x.shape[3], size)]
    return [(slice(None), slice(None), slice(i, i + size), slice(j, j + size)) for i, j in places]


@pytest.mark.parametrize("negative", [pytest.param(False, marks=pytest.mark.any_host), True])
@pytest.mark.parametrize("name", TILERS)
def test_each_tile_is_sampled_beside_the_whole_photo_in_its_own_role(name, negative):
    """A photo larger than a tile: as the tile alone would be, beside all of it."""
    chain, x = chain_of(negative=negative, height=12, width=10), image()
    whole = predicted(others.tiler(steered(chain), **TILERS[name]), x)
    for tile in tiles(x):
        assert_close(whole[tile], predicted(steered(chain), x[tile]))
    assert graph.relative(whole, predicted(others.tiler(model_of("sd15")), x)) > 0.05


@pytest.mark.parametrize("name", TILERS)
def test_each_tile_has_its_own_part_of_the_mask(name):
    chain, x = chain_of(), image()
    whole = predicted(others.tiler(steered(chain, mask=left(12)), **TILERS[name]), x)
    for tile in tiles(x):
        part = left(12)[tile[1:]]
        assert_close(whole[tile], predicted(steered(chain, mask=part), x[tile]))


def test_tiles_and_masks_of_two_photos():
    (one, two), x = (chain_of(seed=seed) for seed in (0, 1)), image()

    def both(part=slice(None)):
        own = [mask[part] for mask in (left(12), 1 - left(4))]
        model = graph.patch(model_of("sd15"), one, mask=own[0], **NO_STATISTICS)
        return graph.patch(model, two, mask=own[1], strength=0.7, **NO_STATISTICS)

    whole = predicted(others.tiler(both(), batch=4), x)
    for tile in tiles(x):
        assert_close(whole[tile], predicted(both(tile[1:]), x[tile]))


def test_tiles_that_wrap_around_have_the_mask_of_their_places():
    chain, x = chain_of(), image()
    whole = predicted(others.tiler(steered(chain, mask=left(10)), shift=4), x)
    rolled, whole = (image.roll((4, 4), (2, 3)) for image in (x, whole))
    for tile in tiles(x):
        part = left(10).roll(4, 2)[tile[1:]]
        assert_close(whole[tile], predicted(steered(chain, mask=part), rolled[tile]))


@pytest.mark.parametrize("settings, said", [
    ({"mask": left()}, "no part of the image's"),
    ({}, None),
])
def test_pieces_that_are_no_part_of_the_image_are_refused_where_it_matters(settings, said):
    model = others.tiler(steered(chain_of(), **settings), change=lambda tile: tile * 0.99)
    if said is None:
        assert torch.isfinite(predicted(model, image())).all()
        return
    with pytest.raises(ValueError, match=rf"^RIVAL Patch Model: another node .*{said}.*\.$"):
        predicted(model, image())


def test_pieces_that_do_not_tell_their_prompt_are_refused_where_it_matters():
    conds = prompts()["positive"]
    for negative in (False, True):
        model = others.tiler(steered(chain_of(negative=negative)), batch=4)
        guider = guider_of(model, conds, conds, 4.0)  # one text in two roles
        if not negative:
            assert torch.isfinite(predict(guider, image(), SIGMA)).all()
            continue
        with pytest.raises(ValueError, match=r"^RIVAL Patch Model: .*which prompt.*\.$"):
            predict(guider, image(), SIGMA)


def cut_inside(model):
    def halves(executor, x, *args, **kwargs):
        parts = [executor(part, *args, **kwargs) for part in x.split(8, dim=3)]
        return torch.cat(parts, dim=3)

    model.add_wrapper_with_key("diffusion_model", "theirs", halves)
    return model


def cut_past_the_wrappers(model):
    def halves(apply_model, call):
        base, x = apply_model.__self__, call["input"]
        parts = [base._apply_model(part, call["timestep"], **call["c"]) for part in x.split(8, 3)]
        return torch.cat(parts, dim=3)

    model.set_model_unet_function_wrapper(halves)
    return model


@pytest.mark.parametrize("cut", [cut_inside, cut_past_the_wrappers])
def test_pieces_that_nothing_tells_apart_are_refused_where_it_matters(cut):
    assert torch.isfinite(predicted(cut(steered(chain_of())), image())).all()
    with pytest.raises(ValueError, match=r"^RIVAL Patch Model: .*inside the model.*\.$"):
        predicted(cut(steered(chain_of(), mask=left())), image())


def test_whole_rows_past_the_wrappers_are_known():
    """As a step cache calls the model, which computes a part of it by itself."""
    def past(apply_model, call):
        return apply_model.__self__._apply_model(call["input"], call["timestep"], **call["c"])

    model = steered(chain_of(negative=True), mask=left())
    expected = predicted(model, image())
    model.set_model_unet_function_wrapper(past)
    assert torch.equal(predicted(model, image()), expected)


# --- windows, areas ------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("schedule", ["standard_static", "looped_uniform"])
def test_windows_have_their_own_part_of_the_mask(dim, schedule):
    """Each window's call is what that window alone would be, beside the whole photo."""
    chain, x, seen = chain_of(negative=True), image(), []
    mask = left(10) if dim == 3 else left(10).mT

    def watch(executor, model, conds, piece, *args):
        out = executor(model, conds, piece, *args)
        seen.append((piece, out[1] + 4.0 * (out[0] - out[1])))
        return out

    inputs = {"dim": dim, "length": 8, "overlap": 2, "schedule": schedule}
    model = others.windows(steered(chain, mask=mask), **inputs)
    model.add_wrapper_with_key("calc_cond_batch", "watch", watch)
    predicted(model, x)
    assert len(seen) > 1 and any(len(set(places(p, x, dim)) & {*range(10, 16)}) for p, _ in seen)
    for piece, found in seen:
        part = mask.index_select(dim - 1, torch.tensor(places(piece, x, dim)))
        assert_close(found, predicted(steered(chain, mask=part), piece))


def places(piece, whole, dim) -> list[int]:
    """Which lines of the whole a window has."""
    lines = whole.unbind(dim)
    return [next(i for i, line in enumerate(lines) if torch.equal(line, own))
            for own in piece.unbind(dim)]


def test_a_prompts_area_has_its_own_part_of_the_mask():
    """An area is a smaller call, too."""
    chain, x = chain_of(), image()
    tokens, options = prompts()["positive"][0]
    area = [[tokens, {**options, "area": (16, 8, 0, 8), "strength": 1.0}]]
    found = predicted(steered(chain, mask=left(12)), x, area, cfg=1.0)
    alone = predicted(steered(chain, mask=left(12)[RIGHT[1:]]), x[RIGHT], cfg=1.0)
    assert_close(found[RIGHT], alone)
