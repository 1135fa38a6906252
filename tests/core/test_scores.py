"""Distances between pictures: closed forms, and what they must not see."""

from __future__ import annotations

import pytest
import torch
from comfyui_rival.rival_core.choosing import measures
from comfyui_rival.rival_core.choosing.scores import OUTSIDE, PALETTE, SCORES, TEXTURE, measure
from comfyui_rival.rival_core.errors import RivalError
from torch.nn.functional import avg_pool2d, interpolate

SIDE = 96


def flat(*levels: float, size=(32, 32)) -> torch.Tensor:
    """A picture of one colour, [1, 3, h, w]."""
    return torch.tensor(levels).view(1, -1, 1, 1).expand(1, 3, *size)


def stripes(period: float, size=(SIDE, SIDE)) -> torch.Tensor:
    """Along the rows, [1, 3, h, w]."""
    rows = torch.arange(size[0]).view(1, 1, -1, 1)
    return (0.5 + 0.4 * torch.sin(2 * torch.pi * rows / period)).expand(1, 3, *size)


def scene(seed: int = 0) -> torch.Tensor:
    """Stripes above, coloured grain below, [1, 3, SIDE, SIDE]."""
    grain = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return torch.cat([stripes(7)[:, :, : SIDE // 2], grain[:, :, SIDE // 2 :]], 2)


def rearranged(image: torch.Tensor) -> torch.Tensor:
    """Its halves the other way around, each moved along."""
    upper, lower = image.chunk(2, 2)
    return torch.cat([lower.roll(11, 3), upper.flip(3)], 2)


def score(name: str, images, photos=None, mask=None) -> list[float]:
    return measure(images, photos, mask)[name].values.tolist()


def shift(first: torch.Tensor, second: torch.Tensor) -> float:
    """The length of the way between two plain pictures' colours."""
    return float((measures.oklab(first) - measures.oklab(second)).norm(dim=1).mean())


# --- colour ---------------------------------------------------------------------------------------


def test_oklab_of_known_colours():
    colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[..., None, None]
    expected = torch.tensor([[100.0, 0, 0], [62.796, 22.486, 12.585], [0, 0, 0]])
    torch.testing.assert_close(measures.oklab(colors)[..., 0, 0], expected, rtol=0, atol=0.02)


def test_palette_distance_sees_colours_and_not_their_places():
    image = scene()
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(1))
    moved = image.flatten(2)[:, :, order].view_as(image)
    assert float(measures.palette_distance(moved, image[0])) == pytest.approx(0, abs=1e-4)


def test_palette_distance_is_as_long_as_a_shift():
    grey, lighter = flat(0.4), flat(0.5)
    found = float(measures.palette_distance(lighter, grey[0]))
    assert found == pytest.approx(shift(lighter, grey), rel=0.25)  # few directions
    assert score(PALETTE, lighter, grey) == pytest.approx([found])


def test_a_photo_of_another_size_and_shape_has_the_same_palette():
    """Three quarters of it green, wherever and however large."""
    image = torch.cat([flat(0.1, 0.6, 0.2, size=(48, 64)), flat(0.9, 0.2, 0.1, size=(16, 64))], 2)
    wide = torch.cat([flat(0.9, 0.2, 0.1, size=(40, 60)), flat(0.1, 0.6, 0.2, size=(40, 180))], 3)
    more = torch.cat([flat(0.9, 0.2, 0.1, size=(40, 80)), flat(0.1, 0.6, 0.2, size=(40, 160))], 3)
    assert score(PALETTE, image, wide)[0] < 0.5 < 2 < score(PALETTE, image, more)[0]


def test_without_a_photo_distances_are_from_the_mean_of_all():
    """Of two colours that is half the way; of several photos, too."""
    red, blue = flat(0.8, 0.2, 0.2), flat(0.2, 0.2, 0.8)
    both = torch.cat([red, blue])
    apart = float(measures.palette_distance(red, blue[0]))
    assert score(PALETTE, both) == pytest.approx([apart / 2] * 2)
    assert score(PALETTE, red, both) == pytest.approx([apart / 2])
    images = torch.cat([scene(0), stripes(12), scene(1), scene(2)])
    assert measure(images)[TEXTURE].ranking()[-1] == 2


# --- texture --------------------------------------------------------------------------------------


def test_texture_is_blind_to_where_things_are_and_sees_what_they_are():
    image = scene()
    blurred = avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    larger = interpolate(image[:, :, 24:72, 24:72], scale_factor=2, mode="bilinear")
    near, *far = score(TEXTURE, torch.cat([rearranged(image), blurred, larger, stripes(7)]), image)
    assert score(TEXTURE, image, image) == [0]
    assert near < min(far) / 4


def test_texture_sees_the_period_and_the_angle_but_not_the_beginning():
    image = stripes(8)
    moved, other, turned = score(
        TEXTURE, torch.cat([image.roll(3, 2), stripes(12), image.transpose(2, 3)]), image
    )
    assert moved < min(other, turned) / 4


def test_texture_does_not_see_a_shift_of_all_colours():
    image = 0.2 + 0.5 * scene()
    assert score(TEXTURE, image + 0.05, image)[0] < 0.2 * score(PALETTE, image + 0.05, image)[0]


def test_pictures_too_small_for_a_texture_say_so():
    found = measure(torch.rand(3, 3, 1, 1))
    assert len(found[PALETTE].ranking()) == 3 and tuple(found) == SCORES
    with pytest.raises(RivalError, match="so few pixels"):
        found[TEXTURE].ranking()


# --- outside a mask -------------------------------------------------------------------------------


def test_outside_is_the_colours_way_where_the_mask_is_not():
    photo, other = flat(0.4, size=(SIDE, SIDE)), flat(0.5, size=(SIDE, SIDE))
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, : SIDE // 2] = 1
    inside = torch.where(mask.bool(), 0.9, photo)
    quarter = torch.cat([photo[:, :, : SIDE // 2], other[:, :, SIDE // 2 :]], 2)
    images = torch.cat([photo, inside, other, quarter])
    way = shift(photo, other)
    assert score(OUTSIDE, images, photo, mask) == pytest.approx([0, 0, way, way / 2], abs=1e-3)
    assert measure(images, photo, mask)[OUTSIDE].ranking() == [1, 2, 4, 3]


def test_every_image_may_have_a_mask_of_its_own_of_any_size():
    photo = flat(0.4, size=(SIDE, SIDE))
    images = photo.repeat(2, 1, 1, 1)
    images[:, :, :, : SIDE // 2] = 0.9
    masks = torch.zeros(2, SIDE // 4, SIDE // 4)
    masks[0, :, : SIDE // 8] = 1
    first, second = score(OUTSIDE, images, photo, masks)
    assert first < 1 and second > 10  # the mask has soft edges


def test_a_larger_photo_and_the_edge_that_a_vae_cuts_off_do_not_count():
    photo = scene()
    larger = interpolate(photo, scale_factor=2, mode="nearest")
    edged = torch.cat([torch.zeros(1, 3, SIDE, 2), photo, torch.ones(1, 3, SIDE, 2)], 3)
    mask = torch.zeros(1, 1, 1)
    assert score(OUTSIDE, photo, larger, mask) == pytest.approx([0], abs=1e-3)
    assert score(OUTSIDE, photo, edged, mask)[0] < 0.1 * score(OUTSIDE, rearranged(photo), photo,
                                                               mask)[0]


@pytest.mark.parametrize("photos, mask, said", [
    (None, torch.zeros(1, 8, 8), "connect both"),
    (flat(0.5), None, "connect both"),
    (flat(0.5).repeat(2, 1, 1, 1), torch.zeros(1, 8, 8), "photo holds 2"),
    (flat(0.5, size=(32, 40)), torch.zeros(1, 8, 8), "of the images' shape"),
    (flat(0.5), torch.ones(1, 8, 8), "covers everything"),
])
def test_what_cannot_be_measured_outside_says_why(photos, mask, said):
    found = measure(flat(0.5), photos, mask)
    assert found[PALETTE].values.tolist() == pytest.approx([0], abs=1e-4)
    with pytest.raises(RivalError, match=said):
        found[OUTSIDE].ranking()


# --- ranking --------------------------------------------------------------------------------------


def test_equals_rank_in_their_order():
    images = torch.cat([flat(0.9), flat(0.5), flat(0.5), flat(0.6)])
    assert measure(images, flat(0.5))[PALETTE].ranking() == [2, 3, 4, 1]


def test_what_is_no_number_counts_as_black():
    spoiled = flat(0.5).clone()
    spoiled[:] = float("nan")
    found = measure(torch.cat([flat(0.2), spoiled, flat(0.0)]), flat(0.2))[PALETTE]
    assert found.ranking()[0] == 1 and found.values[1] == found.values[2] > 0
