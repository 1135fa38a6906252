"""exemplar_keys = quarter: fewer of the photo's tokens where there are most, beside one's own."""

from __future__ import annotations

import graph
import pytest
import torch
from comfyui_rival.rival_core.chain.chain import ModelCard
from comfyui_rival.rival_core.chain.tokens import Tokens
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.exemplar import Exemplar, finest_layers, thinned
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.masks import every_second
from comfyui_rival.rival_core.steering.step import Step, steering
from spies import key_lengths

pytestmark = pytest.mark.any_host
CONCAT = {"replace_end": 0.0, "normalize_end": 0.0}
REPLACE = {"replace_end": 1.0, "inject_end": 0.9, "normalize_end": 0.0}  # to the last but one
FINE, DEEP = (("input", 1), 0), (("middle", 0), 0)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def world(request):
    import tiny

    model = tiny.build(request.param)
    prompts = [tiny.conditioning(model, seed) for seed in (1, 2)]

    def invert(seed=4, size=(8, 8)):
        latent = {"samples": torch.randn(1, 4, *size, generator=torch.manual_seed(seed))}
        return graph.invert(model, latent, prompts[0], steps=5)[0]

    return {"model": model, "prompts": prompts, "invert": invert}


def sample(world, chain, model=None, sampler=None, **patch):
    patched = graph.patch(model or world["model"], chain, **patch)
    return graph.rival_sample(patched, chain, *world["prompts"], **(sampler or {}))


def lengths(world, *args, **kwargs):
    """{the keys' lengths in a layer} of the finest layers, and of the others."""
    with key_lengths(world["model"]) as found:
        sample(world, *args, **kwargs)
    finest = finest_layers(args[0].model)
    return [{n for layer, all_of in found.items() if (layer in finest) is fine for n in all_of}
            for fine in (True, False)]


@pytest.mark.host
def test_a_quarter_of_the_photos_tokens_is_read_beside_ones_own(world):
    chain = world["invert"]()
    fine, others = lengths(world, chain, exemplar_keys="quarter", **CONCAT)
    every, same = lengths(world, chain, **CONCAT)
    (own,) = {n // 2 for n in every}
    assert fine == {own + own // 4} and others == same


@pytest.mark.host
def test_odd_sides_are_rounded_up(world):
    fine, _ = lengths(world, world["invert"](size=(10, 14)), exemplar_keys="quarter", **CONCAT)
    own = {140: 35, 35: 12}  # 10 x 14 -> 5 x 7, which is where SDXL's attention begins, -> 3 x 4
    assert len(fine) == 1 and fine <= {count + kept for count, kept in own.items()}


@pytest.mark.host
def test_the_replace_phase_stays_exact(world):
    chain = world["invert"]()
    exact = sample(world, chain, **REPLACE)
    assert torch.equal(sample(world, chain, exemplar_keys="quarter", **REPLACE), exact)
    half = sample(world, chain, exemplar_keys="quarter", strength=0.5, **REPLACE)
    assert torch.equal(half, sample(world, chain, strength=0.5, **REPLACE))


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize(("world", "patch"), [
    ("sdxl", {}), ("sd15", {"strength": 0.5}), ("sd15", {"mask": torch.eye(8)[None]}),
    ("sd15", {"exemplar_mask": torch.ones(1, 8, 8)}),
], indirect=["world"])
def test_live_and_cached_alike(world, patch):
    chain = world["invert"]()
    live = sample(world, chain, exemplar_keys="quarter", **patch)
    for _ in range(2):
        cached = sample(world, chain, exemplar_keys="quarter", features="cached", **patch)
        assert torch.equal(cached, live)
    assert torch.isfinite(live).all()
    assert 1e-5 < graph.relative(live, sample(world, chain, **patch)) < 1


@pytest.mark.usefixtures("photos_apart")
def test_what_is_kept_serves_either(world):
    chain = world["invert"]()
    sample(world, chain, exemplar_keys="quarter", features="cached")
    kept = chain.features.nbytes
    exact = sample(world, chain, features="cached")
    assert torch.equal(exact, sample(world, chain)) and chain.features.nbytes == kept


def test_other_sizes_and_two_photos(world):
    one, two = world["invert"](), world["invert"](5, (10, 14))
    patched = graph.patch(world["model"], one, exemplar_keys="quarter")
    size = {"samples": torch.zeros(1, 4, 8, 12)}
    mixed = sample(world, two, patched, {"latent": size, "batch_size": 2})
    assert mixed.shape == (2, 4, 8, 12) and torch.isfinite(mixed).all()
    other_way = graph.patch(world["model"], two)
    again = graph.patch(other_way, one, exemplar_keys="quarter")
    back = graph.rival_sample(again, two, *world["prompts"], latent=size, batch_size=2)
    assert torch.equal(back, mixed), "their order does not matter"


def test_one_photo_in_two_patches_has_no_order_either(world):
    chain = world["invert"]()
    several = [sample(world, chain, graph.patch(world["model"], chain, exemplar_keys=first),
                      exemplar_keys=second)
               for first, second in (("all", "quarter"), ("quarter", "all"))]
    assert torch.equal(*several)


def test_which_tokens_are_read(world):
    """Every second row and column; of a part of the photo those inside it, or else all of it."""
    chain = world["invert"]()
    hidden = torch.arange(64.0).view(1, 64, 1)

    def read(layer=None, gates=CONCAT, **exemplar):
        exemplar = Exemplar(chain, Gates(**gates), keys="quarter", **exemplar)
        step = Step(1.0, steering([exemplar], 500))
        layer = layer or min(finest_layers(chain.model))
        step.tokens[id(chain), "positive"] = {layer: Tokens(hidden, hidden)}
        return step.read(layer, "positive").context

    grid = hidden.view(1, 8, 8, 1)
    assert torch.equal(read(), grid[:, ::2, ::2].reshape(1, 16, 1))
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    assert torch.equal(read(seen=left), grid[:, ::2, :4:2].reshape(1, 8, 1))
    odd = torch.zeros(1, 8, 8)
    odd[:, 1, 1] = 1
    assert torch.equal(read(seen=odd), hidden[:, 9:10])
    assert torch.equal(read(gates=REPLACE), hidden)
    (deep, *_) = {x[:2] for x in chain.model.layers} - finest_layers(chain.model) or [None]
    assert deep is None or torch.equal(read(deep), hidden)


def test_the_finest_layers_are_the_narrowest():
    card = ModelCard("SD15", "SD15", ((*FINE, 320), (*DEEP, 1280)))
    assert finest_layers(card) == {FINE}


def test_tokens_that_are_no_grid_are_all_read():
    assert every_second(63, (8, 8)) is None
    assert thinned(None, None) is None
    numbers = torch.arange(3)
    assert thinned(numbers, None) is numbers and thinned(None, numbers) is numbers


def test_bad_input():
    with pytest.raises(RivalError, match=r"exemplar_keys is 'few': choose one of all, quarter"):
        Exemplar(None, keys="few")
