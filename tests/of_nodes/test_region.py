"""mask on RIVAL Patch Model: where in the target the exemplar acts."""

from __future__ import annotations

import graph
import pytest
import spies
import torch
from comfyui_rival.rival_core.chain.tokens import Tokens
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.attention import blended_attention
from comfyui_rival.rival_core.steering.exemplar import Exemplar, statistics_inside
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.normalization import adain, statistics
from comfyui_rival.rival_core.steering.step import (
    Step,
    normalize,
    normalize_masked,
    steering,
)

pytestmark = [pytest.mark.host, pytest.mark.sampled]
LAYER = (("input", 1), 0)


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15")
    prompts = [tiny.conditioning(model, i) for i in (1, 2)]
    chains = [graph.invert(model, tiny.latent(seed, size=8), prompts[0], steps=5)[0]
              for seed in (2, 3)]
    return {"model": model, "prompts": prompts, "chains": chains}


def left(value: float = 1.0) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = value
    return mask


def everywhere(value: float = 1.0) -> torch.Tensor:
    return torch.full((1, 64, 64), value)


def sample(setup, *patches):
    """Through patches of (the photo's number, its settings), one after another."""
    model = setup["model"]
    for number, settings in patches:
        model = graph.patch(model, setup["chains"][number], **settings)
    return graph.rival_sample(model, setup["chains"][0], *setup["prompts"])


def test_a_full_mask_is_no_mask(setup):
    for strength in (1.0, 0.5):
        full = sample(setup, (0, {"mask": everywhere(), "strength": strength}))
        assert graph.relative(full, sample(setup, (0, {"strength": strength}))) < 1e-5


def test_a_mask_of_some_value_is_that_strength(setup):
    soft = sample(setup, (0, {"mask": everywhere(0.6)}))
    assert graph.relative(soft, sample(setup, (0, {"strength": 0.6}))) < 1e-4


def test_half_a_mask_is_neither_plain_nor_whole(setup):
    half = sample(setup, (0, {"mask": left()}))
    assert torch.isfinite(half).all()
    assert graph.relative(half, sample(setup)) > 1e-2
    assert graph.relative(half, sample(setup, (0, {}))) > 1e-2


def test_two_photos_in_two_places_do_not_depend_on_their_order(setup):
    a, b = (0, {"mask": left()}), (1, {"mask": 1 - left(), "strength": 0.7})
    assert torch.equal(sample(setup, a, b), sample(setup, b, a))


def test_one_photo_in_three_places_does_not_depend_on_their_order(setup):
    """All that tells the patches apart is where they act."""
    ramp = torch.linspace(0, 1, 64).expand(1, 64, 64)
    a, b, c = ((0, {"mask": mask}) for mask in (ramp, 1 - ramp, ramp.mT))
    first = sample(setup, a, b, c)
    assert all(torch.equal(sample(setup, *order), first) for order in ((b, c, a), (c, b, a)))


def test_an_empty_mask_is_the_plain_model_bitwise(setup, caplog):
    """The photo acts nowhere, costs nothing, and the log says so; others act as if alone."""
    empty, plain = (0, {"mask": everywhere(0.0)}), sample(setup)
    with spies.model_rows(setup["model"]) as calls:
        assert torch.equal(sample(setup, empty), plain)
    assert [rows for rows, _ in calls] == [2] * 5
    assert "RIVAL Patch Model: the mask is empty, so the photo acts nowhere" in caplog.messages
    alone = sample(setup, (1, {}))
    for order in ((empty, (1, {})), ((1, {}), empty)):
        assert torch.equal(sample(setup, *order), alone)


def test_a_faint_mask_acts(setup):
    """No place of it is covered by half, which a mask of what is read would have to be."""
    faint = sample(setup, (0, {"mask": everywhere(0.2)}))
    assert graph.relative(faint, sample(setup, (0, {"strength": 0.2}))) < 1e-4
    assert graph.relative(faint, sample(setup)) > 1e-2


def attend(q, k, v, mask=None):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def shares(step):
    return step.shares(LAYER, 64, torch.empty(1, 4, 8, 8))


def step_of(*exemplars, tokens=16):
    step = Step(1.0, steering(exemplars, 500))
    for number, e in enumerate(exemplars):
        hidden = torch.randn(1, tokens + number, 6)
        step.tokens[id(e.chain), "positive"] = {LAYER: Tokens(hidden, hidden)}
    step.read(LAYER, "positive")
    return step


def test_inside_is_injected_and_outside_is_plain(setup):
    step = step_of(Exemplar(setup["chains"][0], Gates(), mask=left()))
    share, allowed = shares(step)
    q, k, v = torch.randn(1, 64, 6), torch.randn(1, 80, 6), torch.randn(1, 80, 6)
    out = blended_attention(attend, q, k, v, 16, False, share, allowed).view(8, 8, 6)
    torch.testing.assert_close(out[:, :4], attend(q, k, v).view(8, 8, 6)[:, :4])
    torch.testing.assert_close(out[:, 4:], attend(q, k[:, 16:], v[:, 16:]).view(8, 8, 6)[:, 4:])


@pytest.mark.parametrize("replace", [False, True])
def test_each_place_reads_its_own_photo(setup, replace):
    """Two photos side by side in the keys: 16 tokens of the first, 17 of the second."""
    a, b = setup["chains"]
    step = step_of(Exemplar(a, Gates(), mask=left()), Exemplar(b, Gates(), mask=1 - left()))
    share, allowed = shares(step)
    q, k, v = torch.randn(1, 64, 6), torch.randn(1, 33 + 64, 6), torch.randn(1, 33 + 64, 6)
    out = blended_attention(attend, q, k, v, 33, replace, share, allowed).view(8, 8, 6)
    own = [] if replace else list(range(33, 97))
    for columns, keys in ((slice(0, 4), range(16)), (slice(4, 8), range(16, 33))):
        wanted = attend(q, k[:, [*keys, *own]], v[:, [*keys, *own]]).view(8, 8, 6)
        torch.testing.assert_close(out[:, columns], wanted[:, columns])


def test_where_no_photo_acts_nothing_breaks(setup):
    a, b = setup["chains"]
    corner = torch.zeros(1, 64, 64)
    corner[:, :8, :8] = 1
    step = step_of(Exemplar(a, mask=corner), Exemplar(b, mask=corner))
    share, allowed = shares(step)
    q, k, v = torch.randn(1, 64, 6), torch.randn(1, 33 + 64, 6), torch.randn(1, 33 + 64, 6)
    out = blended_attention(attend, q, k, v, 33, True, share, allowed)
    torch.testing.assert_close(out[:, 1:], attend(q, k[:, 33:], v[:, 33:])[:, 1:])


def test_colours_are_taken_in_the_mask_from_its_own_statistics(setup):
    eps, target = torch.randn(2, 4, 8, 8), statistics(torch.randn(1, 4, 8, 8) * 2 + 1)
    chain = setup["chains"][0]
    masked = normalize_masked(eps, [target], [Exemplar(chain, mask=left())])
    assert torch.equal(masked[..., 4:], eps[..., 4:])
    torch.testing.assert_close(masked[..., :4], adain(eps[..., :4], target))
    whole = normalize_masked(eps, [target], [Exemplar(chain, mask=everywhere())])
    torch.testing.assert_close(whole, normalize(eps, [target], [1.0]))


def test_two_photos_colour_their_own_places(setup):
    eps = torch.randn(1, 4, 8, 8)
    targets = [statistics(torch.randn(1, 4, 8, 8) + shift) for shift in (2, -2)]
    among = [Exemplar(setup["chains"][0], mask=left()),
             Exemplar(setup["chains"][1], mask=1 - left())]
    both = normalize_masked(eps, targets, among)
    torch.testing.assert_close(statistics_inside(both, left()).mean, targets[0].mean)
    torch.testing.assert_close(statistics_inside(both, 1 - left()).mean, targets[1].mean)


def test_tokens_that_are_no_grid_are_refused(setup):
    step = step_of(Exemplar(setup["chains"][0], mask=left()))
    with pytest.raises(RivalError, match=r"13 tokens .* mask does not work"):
        step.shares(LAYER, 13, torch.empty(1, 4, 8, 8))


def test_another_size_and_a_batch(setup):
    model = graph.patch(setup["model"], setup["chains"][0], mask=left())
    result = graph.rival_sample(
        model, setup["chains"][0], *setup["prompts"], batch_size=2,
        latent={"samples": torch.zeros(1, 4, 6, 10)})
    assert result.shape == (2, 4, 6, 10) and torch.isfinite(result).all()


def test_bad_input(setup):
    with pytest.raises(ValueError, match=r"^RIVAL Patch Model: the mask has .*\[3, 8, 8\].*\.$"):
        graph.patch(setup["model"], setup["chains"][0], mask=torch.ones(3, 8, 8))


# --- the start -----------------------------------------------------------------------------------


def starts(setup, *patches, **inputs):
    """The first latents that the model is asked about."""
    model, seen = setup["model"], []
    for number, settings in patches:
        model = graph.patch(model, setup["chains"][number], **settings)
    model = model.clone()

    def watch(apply_model, call):
        seen.append(call["input"])
        return apply_model(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    graph.rival_sample(model, setup["chains"][0], *setup["prompts"], **{"cfg": 1.0, **inputs})
    return seen[0]


def drawn_from(latents, chain):
    """Which places [H, W] hold a channel vector of the chain's end."""
    vectors = chain.end[0].flatten(1).T
    places = latents[0].movedim(0, -1)[..., None, :]
    return (places - vectors).abs().amax(dim=-1).amin(dim=-1) < 1e-4


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("other", [1 - left(), everywhere()])  # where both act, its own counts
def test_each_place_starts_at_the_noise_of_the_photo_that_acts_there(setup, order, other):
    masks = {0: {"mask": left()}, 1: {"mask": other}}
    latents = starts(setup, *((i, masks[i]) for i in order))
    half = torch.arange(8).expand(8, 8) < 4
    assert torch.equal(drawn_from(latents, setup["chains"][0]), half)
    assert torch.equal(drawn_from(latents, setup["chains"][1]), ~half)


@pytest.mark.parametrize("patches", [
    [(0, {}), (1, {})],  # no masks
    [(0, {}), (1, {"mask": everywhere()})],  # its own photo acts as much
    [(0, {"mask": left()}), (1, {"mask": everywhere(0.0)})],
    [(1, {"mask": everywhere(), "strength": 0.0})],
])
def test_elsewhere_the_start_is_its_own_photos(setup, patches):
    latents = starts(setup, *patches)
    assert drawn_from(latents, setup["chains"][0]).all()
    assert torch.equal(latents, starts(setup, (0, {})))


def test_the_stronger_photo_gives_the_start(setup):
    latents = starts(setup, (0, {"strength": 0.4}), (1, {"mask": everywhere(), "strength": 0.6}))
    assert drawn_from(latents, setup["chains"][1]).all()


def test_inverted_starts_at_one_photo_as_a_whole(setup):
    halves = [(0, {"mask": left()}), (1, {"mask": 1 - left()})]
    latents = starts(setup, *halves, start="inverted", cfg=2.0)
    assert len(latents) == 2 and drawn_from(latents, setup["chains"][0]).all()
