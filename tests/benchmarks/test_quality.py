"""What the quality benchmark measures: identities, and known answers on scenes that are drawn."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "benchmarks"), str(REPO / "demo" / "model")]

import judge
import measures
import picture
import quality
import report
from comfyui_rival.rival_core.choosing.measures import oklab, palette_distance
from render import render
from scenes import KINDS, SIZE, TEXTURES, Attributes, make_scene, relayout
from split import is_held_out

SEEDS = range(8)


def mask_of(scene):
    return report.foreground(scene, render([scene]))[0]


def textured(seed, texture, **changes):
    """A scene with this background, its style changed."""
    scene = make_scene(seed, Attributes(seed % 3 + 1, "red", "circle", "blue", texture))
    return replace(scene, style=replace(scene.style, **changes))


def texture_distance(scene, exemplar):
    image, other = render([scene]), render([exemplar])[0]
    return float(measures.texture_distance(image, mask_of(scene)[None], other, mask_of(exemplar)))


# --- colour ---------------------------------------------------------------------------------------


def test_palette_distance_grows_with_the_change_of_shade():
    for seed in SEEDS:
        scene = make_scene(seed)
        exemplar = render([scene])[0]
        far = []
        for change in (0.0, 0.1, 0.2, 0.5):
            shade = tuple(part + (0.5 - part) * change for part in scene.style.background)
            other = replace(scene, style=replace(scene.style, background=shade))
            far.append(float(palette_distance(render([other]), exemplar)))
        assert far[0] == 0 and far == sorted(far)


def test_an_ideal_variation_has_nearly_the_exemplars_palette():
    for seed in SEEDS:
        scene, stranger = make_scene(seed), make_scene(seed + 100)
        exemplar = render([scene])[0]
        images = render([relayout(scene, seed), stranger])
        near, far = palette_distance(images, exemplar).tolist()
        assert near < 3 and near < far / 2


# --- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_foreground_is_where_the_shapes_are(kind):
    for seed in SEEDS:
        scene = make_scene(seed, replace(make_scene(seed).attributes, kind=kind))
        assert report.masks_overlap([scene], render([scene])) > 0.9


def test_overlap_of_known_masks():
    left = torch.zeros(4, 4, dtype=torch.bool)
    empty, whole = left.clone(), ~left
    left[:, :2] = True
    pairs = {(left, left): 1, (left, ~left): 0, (left, whole): 0.5, (empty, empty): 1,
             (left, empty): 0}
    for (first, second), expected in pairs.items():
        assert float(measures.overlap(first, second)) == expected


def test_layouts_differ_as_much_as_they_do():
    for seed in SEEDS:
        scene = make_scene(seed)
        masks = torch.stack([mask_of(relayout(scene, i)) for i in range(3)])
        assert measures.layout_diversity(masks[:1].expand(3, -1, -1)) == 0
        assert measures.layout_diversity(masks) > 0.5
        distances = measures.layout_distance(masks, masks[0])
        assert distances[0] == 0 and distances[1:].min() > 0.3
    assert math.isnan(measures.layout_diversity(masks[:1]))


def test_likeness_is_one_for_a_copy_in_other_shades_and_less_for_another_layout():
    for seed in SEEDS:
        image, other = render([make_scene(seed)]), render([relayout(make_scene(seed), seed)])
        assert float(measures.likeness(0.5 * image + 0.2, image[0])) == pytest.approx(1, abs=1e-4)
        assert float(measures.likeness(1 - image, image[0])) == pytest.approx(-1, abs=1e-4)
        assert float(measures.likeness(other, image[0])) < 0.8


# --- texture --------------------------------------------------------------------------------------


@pytest.mark.parametrize("texture", TEXTURES)
def test_texture_distance_is_blind_to_the_layout(texture):
    for seed in SEEDS:
        scene = textured(seed, texture)
        other = relayout(scene, seed)
        assert texture_distance(scene, scene) == 0
        assert texture_distance(other, scene) < 2.5


@pytest.mark.parametrize("texture", ["striped", "dotted", "checked"])
def test_texture_distance_sees_what_a_caption_leaves_open(texture):
    for seed in SEEDS:
        scene = textured(seed, texture, period=30.0, angle=0.4)
        near = texture_distance(relayout(scene, seed), scene)
        for changes in ({"period": 46.0}, {"angle": 1.1}, {"second": scene.style.background}):
            assert texture_distance(textured(seed, texture, **changes), scene) > 1.5 * near


def test_texture_distance_is_blind_to_where_a_texture_begins():
    scene = replace(textured(0, "striped", period=32.0, angle=0.0), layout=())
    image = render([scene])
    nothing = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    moved = measures.texture_distance(image.roll(8, 3), nothing, image[0], nothing[0])
    turned = measures.texture_distance(image.transpose(2, 3), nothing, image[0], nothing[0])
    assert float(moved) < float(turned) / 2


def test_autocovariance_is_the_sum_that_it_claims():
    images = torch.rand(1, 3, 40, 48)
    known = torch.rand(1, 40, 48) > 0.3
    found, enough = measures.autocovariance(images, known)
    pixels = oklab(images)[0]
    for down, right in ((0, 0), (3, 5), (7, 0)):
        both = known[0, down:, right:] & known[0, : 40 - down, : 48 - right]
        a, b = pixels[:, down:, right:][:, both], pixels[:, : 40 - down, : 48 - right][:, both]
        direct = ((a * b).mean(1) - a.mean(1) * b.mean(1)).sum()
        place = (0, measures.LAGS + down, measures.LAGS + right)
        assert enough[place]
        torch.testing.assert_close(found[place], direct, rtol=1e-3, atol=0.1)


# --- reconstruction -------------------------------------------------------------------------------


def test_psnr_of_known_errors():
    true = torch.tensor([0.0, 1.0, 0.5])
    assert psnr_is(measures.psnr(true + 0.1, true), 20)
    assert psnr_is(measures.psnr(true + 0.1, true, peak=10), 40)
    assert measures.psnr(true, true) == math.inf


def psnr_is(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, abs=1e-3)


# --- the judge and the report ---------------------------------------------------------------------


def test_the_judge_says_one_class_under_each_head():
    images, scenes = render([make_scene(0), make_scene(1)]), [make_scene(0), make_scene(1)]
    found = judge.agreement(judge.Judge().eval(), images, [scene.attributes for scene in scenes])
    assert {name: right.shape for name, right in found.items()} == dict.fromkeys(judge.HEADS, (2,))
    assert all(set(right.tolist()) <= {0.0, 1.0} for right in found.values())


def test_a_judge_is_trained_from_its_seed_and_kept(tmp_path):
    recipe = judge.Recipe(steps=2, batch=4, passed=2)
    first = judge.trained_judge(lambda x: x, tmp_path, "key", recipe)
    again = judge.train(lambda x: x, recipe)
    kept = judge.trained_judge(pytest.fail, tmp_path, "key", recipe)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert torch.equal(weight, kept.state_dict()[name])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("captions", ["held-out", "taught"])
def test_exemplars_show_each_texture_as_often(captions):
    scenes = quality.choose_scenes(10, captions, quality.FIRST_SEED)
    assert [s.attributes.texture for s in scenes] == [*TEXTURES, *TEXTURES]
    assert {is_held_out(s.attributes) for s in scenes} == {captions == "held-out"}


def test_the_truth_is_measured_as_near_and_diverse():
    scenes = quality.choose_scenes(5, "held-out", quality.FIRST_SEED)
    shown, same = render(scenes), judge.Judge().eval()
    truth = quality.true_variations(lambda x: x, scenes, 3)
    copies = [image.expand(3, -1, -1, -1) for image in shown]
    strangers = [render([make_scene(i) for i in range(3)]) for _ in scenes]
    found, copied, strange = (report.measure(same, scenes, shown, images)
                              for images in (truth, copies, strangers))
    for name in ("palette", "pattern"):
        assert (copied[name] < 1e-3).all() and (found[name] < 4).all()
        assert found[name].mean() < strange[name].mean() / 2
    assert found["outline"].mean() > 0.95 > strange["outline"].mean()
    for name in ("moved", "diversity"):
        assert (copied[name] == 0).all() and (found[name] > 0.3).all()


def test_image_to_image_is_read_at_equal_nearness():
    curve = [(0.0, 0.0, 0.0), (0.5, 2.0, 0.4), (1.0, 6.0, 0.8)]
    for near, expected in {0.0: (0, 0), 1.0: (0.25, 0.2), 4.0: (0.75, 0.6), 9.0: (1, 0.8)}.items():
        assert report.at_nearness(curve, near) == pytest.approx(expected)


def test_means_come_with_their_standard_error():
    assert report.mean_and_error(torch.tensor([1.0, 3.0])) == pytest.approx((2, 1))
    assert report.cell(torch.tensor([1.0, 3.0, math.nan]), 1) == "2.0 ± 1.0"


def figures(**changed):
    """Of two scenes: the same under every heading but for the changed ones."""
    values = {name: torch.tensor([5.0, 6.0]) for name, *_ in report.COLUMNS}
    return {**values, **{name: torch.tensor(pair) for name, pair in changed.items()}}


@pytest.mark.parametrize("pair, word", [((9.0, 10.1), "better"), ((1.0, 2.1), "worse"),
                                        ((9.0, 1.0), "no clear difference")])
def test_a_lower_distance_is_better_where_it_is_beyond_chance(pair, word):
    assert f": {word}, by" in report.verdict("palette", figures(), figures(palette=pair))


def test_the_report_has_a_row_for_each_method_and_a_verdict_for_each_claim():
    names = ["text-to-image, same caption", "image-to-image 0.5", "RIVAL", *report.ABLATIONS]
    found = dict.fromkeys(names, figures())
    lines = report.table(found).splitlines()
    assert len(lines) == 2 + len(names)
    assert {line.count("|") for line in lines} == {len(report.COLUMNS) + 2}
    said = report.claims(found, [0.5])
    assert len(said) == 1 + 6 + 1 + 2 + sum(1 + len(n) for n in report.ABLATIONS.values())


def test_methods_are_compared_scene_by_scene():
    found = {"a": figures(), "b": figures(palette=(6.0, 8.0))}
    lines = report.paired(found, "a").splitlines()
    assert len(lines) == 3 and lines[2].startswith("| b | 1.50 ± 0.50 | 0.00 ± 0.00 |")


def test_a_row_shows_its_exemplar_and_what_was_made_of_it():
    shown = torch.stack([torch.full((3, 16, 16), level) for level in (0.2, 0.4)])
    made = [image[None].expand(2, -1, -1, -1) + 0.4 for image in shown]
    scenes = [make_scene(seed) for seed in range(2)]
    page = picture.rows(scenes, shown, made, [1 - images for images in made])
    for row, level in enumerate((0.2, 0.4)):
        y = 100 + row * (picture.SIDE + picture.LINE + picture.BETWEEN)
        line = [page.getpixel((x, y))[0] for x in range(page.width)]
        expected = [round(255 * v) for v in (level, level + 0.4, 0.6 - level)]
        assert [line.count(v) // picture.SIDE for v in expected] == [1, 2, 2]
        assert line.index(expected[0]) < line.index(expected[1]) < line.index(expected[2])


def test_the_picture_has_a_row_for_each_method():
    scenes = [make_scene(seed) for seed in range(7)]
    shown = render(scenes)
    heights = []
    for names in ("a", "ab"):
        images = {name: [image[None] for image in shown] for name in names}
        heights.append(picture.sheet(scenes, shown, images).height)
    assert heights[1] - heights[0] == picture.CELL + picture.GAP
