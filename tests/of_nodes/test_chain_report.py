"""RIVAL Chain Report: its picture, its words, and where its thumbnails come from."""

from __future__ import annotations

import math

import graph
import prompts
import pytest
import torch
from made_chains import make_chain
from serving import pictures

Image = pytest.importorskip("PIL.Image")  # both come with a host's requirements
np = pytest.importorskip("numpy")

pytestmark = pytest.mark.any_host

SHAPES = {  # steps, latent (height, width), channels, solver
    "one step": (1, (16, 16), 4, "ddim"),
    "usual": (50, (16, 24), 4, "anderson"),
    "long": (400, (24, 16), 4, "fixed_point"),
    "wide": (20, (8, 40), 4, "ddim"),
    "tall": (7, (64, 8), 4, "empirical"),
    "16 channels": (12, (16, 16), 16, "ddim"),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def report(chain, **inputs):
    """(IMAGE, text, what the node shows)."""
    from comfyui_rival.nodes import RivalChainReport

    output = RivalChainReport.execute(chain, **inputs)
    return (*output.args, output.ui)


def near(picture, colour: str, most: int = 60) -> np.ndarray:
    """Where a picture has this colour, [H, W]."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(np.asarray(picture).astype(int) - wanted).max(-1) < most


@pytest.fixture
def words(monkeypatch) -> list[tuple[object, str, tuple]]:
    """(picture, words, box) of everything that is written."""
    from PIL import ImageDraw

    found, write = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **options):
        place = {k: v for k, v in options.items() if k in ("font", "anchor")}
        if "font" not in place:
            place["font"] = args[1]
        found.append((self._image, text, self.textbbox(xy, text, **place)))
        write(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


def overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def check_words(words) -> None:
    """Everything written is inside its picture, and on nothing else that is written."""
    for i, (picture, said, box) in enumerate(words):
        assert said.replace("·", "").isascii()  # Pillow's typeface has few other signs
        assert min(box) >= 0 and box[2] <= picture.width and box[3] <= picture.height, said
        assert not any(other is picture and overlap(box, place)
                       for other, _, place in words[:i]), said


@each_shape
def test_any_chain_is_drawn_and_no_words_overlap(shape, words):
    steps, size, channels, solver = SHAPES[shape]
    image, text, shown = report(make_chain(steps, size, channels, solver))
    assert image.shape[0] == 1 and image.shape[2:] == (1400, 3) and 900 < image.shape[1] < 1500
    assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
    assert image.std() > 0.1 and "nan" not in text
    assert len(shown["images"]) == 1 and shown["text"][0] in text
    assert len(text.splitlines()) > 2 * steps
    check_words(words)


@each_shape
def test_thumbnails_reach_from_image_to_noise(shape):
    from comfyui_rival.nodes.pictures.chain_picture import shown_levels

    steps, size, channels, solver = SHAPES[shape]
    levels = shown_levels(make_chain(steps, size, channels, solver))
    assert levels[0] == 0 and levels[-1] == steps and levels == sorted(set(levels))
    assert len(levels) == min(steps + 1, 10 if shape == "wide" else 8)
    assert max(np.diff(levels)) - min(np.diff(levels)) <= 1


def test_every_channel_is_drawn_where_its_value_is():
    """The chain's deviation stays the same at all levels, so that its lines are flat."""
    from comfyui_rival.nodes.pictures import chain_picture, charts
    from comfyui_rival.rival_core.chain.statistics import assumed, measured

    chain = make_chain(steps=30)
    own = measured(chain)
    chart = chain_picture.moment_chart("std", chain, own, assumed(chain), 1, (1.0, 0.1))
    frame = charts.Frame(chart, 560, 200)
    plot = charts.draw_plot(frame)
    for channel in (0, 1, 3):  # the reference lies on channel 2
        rows, columns = near(plot, charts.COLOURS[channel], 30).nonzero()
        high = columns < 12  # where the dotted curves are the solid ones
        assert rows[high].mean() == pytest.approx(frame.y(float(own.std[0, channel])), abs=2)
        assert len(set(columns)) > 0.95 * (frame.x(30) - frame.x(0))
        assert columns.min() < 15 and columns.max() > 545
    low, top = chart.range()
    assert low < float(own.std.min()) and float(own.std.max()) < top


@pytest.mark.parametrize("style, share", [("dotted", 0.3), ("line", 1.0), ("bars", 0.72)])
def test_a_curve_goes_from_its_first_point_to_its_last(style, share):
    from comfyui_rival.nodes.pictures import charts

    curve = charts.Curve(range(21), [1.0] * 21, charts.COLOURS[1], style)
    frame = charts.Frame(charts.Chart("", 20, [curve]), 420, 100)
    columns = set(near(charts.draw_plot(frame), curve.colour, 100).nonzero()[1])
    assert min(columns) <= 10 and max(columns) >= 408
    assert len(columns) / 400 == pytest.approx(share, abs=0.08)


def test_what_is_no_number_leaves_a_gap():
    from comfyui_rival.nodes.pictures import charts

    curve = charts.Curve(range(4), [math.nan, 1.0, 2.0, math.inf])
    frame = charts.Frame(charts.Chart("", 3, [curve]), 400, 100)
    columns = near(charts.draw_plot(frame), curve.colour).nonzero()[1]
    assert 145 < columns.min() < 155 and 245 < columns.max() < 255


def test_the_axes_are_linear_and_logarithmic():
    from comfyui_rival.nodes.pictures.charts import Chart, Curve, Frame

    steps, values = (1, 2, 3), (2e-5, 1e-4, 5e-3)
    log = Frame(Chart("", 3, [Curve(steps, values)], log=True), 400, 300)
    assert log.chart.range() == pytest.approx((1e-5, 1e-2))
    assert [log.y(10.0**-n) for n in (2, 3, 4, 5)] == pytest.approx([0, 100, 200, 300])
    assert [words for _, words in log.chart.ticks()] == ["1e-5", "1e-4", "1e-3", "1e-2"]
    plain = Frame(Chart("", 3, [Curve(steps, (0.0, 1.0, 4.0))]), 400, 300)
    low, high = plain.chart.range()
    assert plain.y(low) == 300 and plain.y(high) == 0 and plain.y((low + high) / 2) == 150
    assert [plain.x(step) for step in range(4)] == [50, 150, 250, 350]


@pytest.mark.parametrize("residuals", [[0.0, 0.0], [0.0, 1e-3], [math.nan, 1e-3], [math.inf, 1e-3],
                                       [1e-30, 1.0], [math.inf, math.inf]])
def test_extreme_residuals_are_drawn(residuals, words):
    chain = make_chain(steps=2, solver="anderson", residuals=torch.tensor(residuals))
    assert torch.isfinite(report(chain)[0]).all()
    check_words(words)


@pytest.mark.parametrize("low, high, most", [(0, 1, 9), (0, 400, 9), (-0.31, 0.27, 6), (0, 7, 9),
                                             (0.4, 1.1, 6), (0, 10000, 9)])
def test_round_numbers(low, high, most):
    from comfyui_rival.nodes.pictures.charts import round_numbers

    found = round_numbers(low, high, most)
    assert 2 <= len(found) <= most + 1 and low <= min(found) and max(found) <= high
    apart = found[1] - found[0]
    assert f"{apart:.0e}"[0] in "125" and np.diff(found) == pytest.approx(apart)
    assert [n / apart for n in found] == pytest.approx([round(n / apart) for n in found])


@pytest.mark.parametrize("solver, tolerance", [
    ("ddim", None), ("anderson", 1e-4),
])
def test_residuals_and_the_tolerance(solver, tolerance, words):
    from comfyui_rival.nodes.pictures.chain_picture import residual_chart

    chain = make_chain(steps=20, solver=solver)
    chart = residual_chart(chain)
    assert chart.reference == tolerance
    assert chart.curves[0].values == chain.residuals.tolist()
    assert list(chart.curves[0].steps) == list(range(1, 21))
    _, text, shown = report(chain)
    written = " ".join(said for _, said, _ in words)
    guesses = solver != "anderson"
    assert (f"{solver} guesses" in written) == guesses
    above = f"above it at {(chain.residuals > 1e-4).sum()} of 20"
    assert (above in written) == ("did not converge" in text) == (not guesses)
    assert "RIVAL Reconstruct" in written and "RIVAL Reconstruct" in text
    assert "20 steps" in shown["text"][0] and "±0.125" in shown["text"][0]


SIGNS = torch.tensor([2.0, -2.0]).repeat(8)  # of deviation 2


@pytest.mark.parametrize("solver, beside, said, drawn", [
    ("obelm", {}, "obelm has no step to solve", []),
    ("edict", {"partner": 1.25 * make_chain().latents}, "the second latent", [0.25] * 6),
    ("edit_friendly", {"noise": SIGNS.expand(6, 4, 16, 16)}, "each noise map", [2.0] * 6),
])  # fmt: skip
def test_what_a_scheme_left_is_drawn(solver, beside, said, drawn, words):
    from comfyui_rival.nodes.pictures.chain_picture import residual_chart

    chain = make_chain(solver=solver, **beside)
    values = [value for curve in residual_chart(chain).curves for value in curve.values]
    assert values == pytest.approx(drawn)
    _, text, _ = report(chain)
    assert any(said in written for _, written, _ in words)
    assert f"{solver}: exact where" in text and "none" in text and "did not" not in text


def test_a_chain_without_figures(words):
    report(make_chain(residuals=None, calls=None))
    assert any("holds none" in said for _, said, _ in words)


def test_calls_and_evaluations_are_counted(words):
    negative = [[torch.zeros(1, 1, 1), {}]]
    report(make_chain(steps=6, cfg=2.0, negative=negative, solver="anderson"))
    written = [said for _, said, _ in words]
    assert "18 calls, guided, so two evaluations a call" in written
    assert any("36 model evaluations" in said for said in written)


class CountingVAE:
    """Remembers what it decodes, to a flat picture."""

    def __init__(self, channels: int = 4):
        self.latent_channels, self.seen = channels, []

    def decode(self, samples):
        self.seen.append(samples.clone())
        return torch.full([len(samples), 8 * samples.shape[2], 8 * samples.shape[3], 3], 0.25)


def test_the_vae_sees_the_photo_and_every_shown_latent_in_its_range():
    import tiny

    model, photo = tiny.build("sdxl"), tiny.latent(2, size=8)
    chain, _ = graph.invert(model, photo, tiny.conditioning(model, 1), steps=9)
    vae = CountingVAE()
    report(chain, vae=vae)
    assert [len(samples) for samples in vae.seen] == [1] * 8
    assert torch.allclose(vae.seen[0], photo["samples"], atol=1e-4)
    unit = chain.end / math.sqrt(1 + chain.top**2)
    assert torch.allclose(vae.seen[-1], unit / 0.13025, rtol=1e-4)


@pytest.mark.host
def test_without_a_vae_thumbnails_are_the_hosts_previews():
    import comfy.latent_formats
    from comfyui_rival.nodes import host
    from latent_preview import Latent2RGBPreviewer

    latent = torch.tensor([0.5, -0.3, 0.8, 0.1]).view(1, 4, 1, 1).expand(1, 4, 3, 5)
    for name in ("SD15", "SDXL"):
        space = getattr(comfy.latent_formats, name)()
        previewer = Latent2RGBPreviewer(space.latent_rgb_factors, space.latent_rgb_factors_bias)
        theirs = previewer.decode_latent_to_preview(latent)
        ours = host.to_pillow(host.picture_of(latent, name))
        assert ours.size == theirs.size == (5, 3)
        assert ours.getpixel((4, 2)) == pytest.approx(theirs.getpixel((4, 2)), abs=1)


@pytest.mark.host
@pytest.mark.parametrize("name", ["Unknown", "LatentFormat", "torch", "Flux"])
@pytest.mark.parametrize("vae", [None, CountingVAE()])
def test_a_latent_format_that_cannot_be_shown_is_grey_and_said(name, vae, words):
    """Flux is known and has 16 channels, so only its fast preview fails here."""
    from comfyui_rival.nodes.pictures import chain_picture

    image, _, _ = report(make_chain(name=name), vae=vae)
    grey = "#{:02x}{:02x}{:02x}".format(*chain_picture.NO_PREVIEW)
    is_shown = vae is not None and name in ("Flux", "LatentFormat")
    assert (near((image[0] * 255).round().numpy(), grey, 1).sum() > 100_000) == (not is_shown)
    said = f"no way to show the latent format {name}"
    assert any(said in text for _, text, _ in words) == (not is_shown)


def test_a_vae_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"^RIVAL Chain Report: .*16 channels.* 4: .*\.$"):
        report(make_chain(), vae=CountingVAE(16))


def test_pictures_and_images_convert_both_ways():
    from comfyui_rival.nodes.host import previews

    levels = torch.randint(0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(0))
    picture = previews.to_pillow(levels / 255)
    assert picture.size == (7, 5)
    assert torch.equal((previews.from_pillow(picture)[0] * 255).round().long(), levels)
    spoiled = torch.tensor([math.nan, 2.0, -1.0]).expand(2, 2, 3)
    assert previews.to_pillow(spoiled).getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.host
@pytest.mark.parametrize("solver, vae", [("ddim", False), ("anderson", True)])
def test_over_http(server, solver, vae):
    inversion = prompts.exemplar(steps=6, solver=solver)
    decoder = {"vae": ["checkpoint", 2]} if vae else {}
    shown = {"report": prompts.node("RivalChainReport", chain=["invert", 0], **decoder)}
    sent_on = {"images": prompts.node("PreviewImage", images=["report", 0])} if vae else {}
    outcome = server.run(inversion | shown | sent_on)
    picture = pictures(server, outcome, "report")
    assert picture.shape[0] == 1 and picture.shape[2] == 1400 and picture.std() > 20
    if sent_on:
        assert np.array_equal(picture, pictures(server, outcome))
    text = outcome.text("report")
    assert "6 steps" in text and "channel 3: mean" in text
