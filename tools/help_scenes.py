"""What the help pages' pictures show: which template, which photo, which settings."""

from __future__ import annotations

from dataclasses import replace

from application_scenes import (
    EDIT,
    RINGS,
    STAR_BECOMES_CIRCLE,
    STARS,
    VARIATION,
    Application,
    photo,
    said,
    variation,
)
from help_graphs import chosen, custom_sampling, plain_sampling, pulled, reported, through_vae
from help_page import WHOLE, Cell, HelpPicture, Row
from options import FLOW, UNET

PHOTO = Cell("the photo", output="")
BY_VAE = Cell("as the VAE gives it", output="PreviewImage")
SQUARES = (3, "green", "square", "white", "plain")
SAME = "Everything below has the same seed and prompt; one setting changes."


def settings(kind: str, name: str, values, usual=None) -> list[Cell]:
    """A cell for each value of one widget."""
    return [
        Cell(f"{value} (default)" if value == usual else f"{value}", {(kind, name): value})
        for value in values
    ]


def patch(name: str, values, usual, changes=None) -> Row:
    """Without changes: on core's KSampler, with nothing of the photo but what attention reads."""
    output = "SaveImage" if changes else "PreviewImage"
    changes = changes or {("RivalPatchModel", "normalize_end"): 0.0}
    cells = settings("RivalPatchModel", name, values, usual)
    return Row(name, [
        replace(cell, changes={**changes, **cell.changes}, output=output) for cell in cells
    ])


def sampler(name: str, values, usual) -> Row:
    return Row(name, settings("RivalKSampler", name, values, usual))


def inverted(label: str, solver: str, steps: int, **shown) -> Cell:
    changes = {("RivalInvert", "solver"): solver, ("RivalInvert", "steps"): steps}
    return Cell(label, changes, **shown)


def ways(solver: str, **shown) -> list[Cell]:
    return [inverted(f"{steps} steps", solver, steps, **shown) for steps in (10, 20, 50)]


def round_trips(**shown) -> list[Cell]:
    tried = [("ddim", 10), ("ddim", 20), ("anderson", 20)]
    return [inverted(f"{solver}, {steps}", solver, steps, **shown) for solver, steps in tried]


def starts(kind: str, output: str) -> list[Cell]:
    return [
        Cell(start, {(kind, "start"): start}, output)
        for start in ("shuffle", "gaussian", "inverted")
    ]


def custom_sampler(name: str, at_zero: bool) -> Cell:
    changes = {("KSamplerSelect", "sampler_name"): name, ("RivalSigmas", "end_at_zero"): at_zero}
    return Cell(f"{name}\nend_at_zero {'on' if at_zero else 'off'}", changes, "PreviewImage")


def thresholds(**shown) -> list[Cell]:
    cells = settings("RivalBlendedGuidance", "threshold", (0.15, 0.3, 0.5), 0.3)
    return [replace(cell, **shown) for cell in cells]


def outside(*values: float) -> list[Cell]:
    """Without keeping the photo; the first value is the sampler's cfg, as if without the node."""
    drifting = {("RivalBlendedGuidance", "keep_photo"): False}
    return [
        replace(cell, changes={**cell.changes, **drifting})
        for cell in settings("RivalBlendedGuidance", "outside", values, 1.0)
    ]


def pull(name: str, values, usual) -> Row:
    return Row(name, settings("RivalPull", name, values, usual))


def similar(*values: float) -> Row:
    second = {("RivalKSampler", "model"): ["late", 0]}
    cells = [Cell(f"{value}", {**second, ("late pull", "keep_similar"): value}) for value in values]
    return Row("keep_similar of a second pull, from 0.6 to 1", cells)


def edit(name: str, values, usual=None) -> Row:
    return Row(name, settings("RivalEdit", name, values, usual))


ONE = {("RivalKSampler", "batch_size"): 1}
PAPER = {("RivalInvert", "steps"): 50, ("RivalInvert", "solver"): "ddim",
         ("RivalInvert", "features"): "live", ("RivalPatchModel", "features"): "live"}
RINGS_PHOTO = variation(photo(7, *RINGS), *RINGS, model=FLOW)
STARS_PHOTO = variation(photo(3, *STARS), *STARS, model=FLOW)
UNSAID = Application([photo(3, *STARS)])  # by the UNet, which needs fewer words

PICTURES = {
    "RivalInvert": HelpPicture(
        "7 Reconstruct a photo", STARS_PHOTO,
        [Row("", [PHOTO, BY_VAE], "Inverted to noise and walked back without steering: what "
                                  "comes back differs by this much, 4 times as strong."),
         Row("solver ddim", ways("ddim", difference=True)),
         Row("solver anderson, iterations 10", ways("anderson", difference=True))],
        rewire=through_vae, reference=BY_VAE,
    ),
    "RivalPatchModel": HelpPicture(
        "3 Style of a photo", UNSAID,
        [Row("", [PHOTO], "One seed, empty prompt. Below the next row: one setting each, by "
                          "KSampler, normalize_end 0, so that only attention brings the photo. "
                          f"Last row: RIVAL KSampler, “{said(*SQUARES)}”."),
         Row("how close, by RIVAL KSampler", [
             Cell("very close", {("RivalKSampler", "denoise"): 0.6}),
             Cell("close (default)"),
             Cell("palette only", {("RivalPatchModel", "inject_end"): 0.0})]),
         patch("strength", (0.0, 0.5, 1.0), 1.0),
         patch("replace_end", (0.0, 0.4, 1.0), 0.4),
         patch("inject_end", (0.1, 0.6, 1.0), 1.0),
         patch("normalize_end", (0.0, 0.4, 1.0), 0.4,
               {("What the new images show", "text"): said(*SQUARES)})],
        PAPER | ONE | {("RivalPatchModel", "inject_start"): 0.0}, plain_sampling,
    ),
    "RivalKSampler": HelpPicture(
        VARIATION, STARS_PHOTO,
        [Row("", [PHOTO], f"Prompt: {said(*STARS)}. {SAME}"),
         sampler("start", ("shuffle", "gaussian", "inverted"), "shuffle"),
         sampler("denoise", (0.4, 0.7, 1.0), 1.0),
         sampler("cfg", (1.0, 2.5, 5.0), None)],
        PAPER | ONE,
    ),
    "RivalReconstruct": HelpPicture(
        "7 Reconstruct a photo", RINGS_PHOTO,
        [Row("", [PHOTO, BY_VAE], "Below: what comes back, with mse and psnr; its difference "
                                  "from what the VAE gives, 4 times as strong."),
         Row("solver, steps", round_trips(measured=True)),
         Row("difference", round_trips(difference=True))],
        rewire=through_vae, reference=BY_VAE,
    ),
    "RivalChainReport": HelpPicture(
        "7 Reconstruct a photo", STARS_PHOTO.by(UNET),
        [Row("", [inverted("", "anderson", 20, output="RivalChainReport")])],
        rewire=reported, pieces=[
            (36, 181, 698, 380), (703, 181, 1365, 380),  # the thumbnails
            (36, 424, 698, 728), (722, 424, 1384, 728),  # residuals, standard deviations
        ],
    ),
    "RivalBlendedGuidance": HelpPicture(
        EDIT, STAR_BECOMES_CIRCLE,
        [Row("", [PHOTO], "The prompt makes the star a circle. Start inverted, one seed. “star” is "
                          "looked for in the photo, the mask grows as the threshold falls."),
         Row("threshold: the mask of “star”", thresholds(output="MaskPreview")),
         Row("outside, at cfg 3.5", outside(3.5, 2.0, 1.0)),
         Row("keep_photo on, threshold", thresholds())],
    ),
    "RivalPull": HelpPicture(
        EDIT, STAR_BECOMES_CIRCLE.by(FLOW),
        [Row("", [PHOTO], "The prompt makes the star a circle. RIVAL KSampler from the photo's own "
                          "noise (start inverted), one seed, nothing but the pull."),
         pull("strength", (0.0, 0.5, 0.9), 0.9),
         pull("end", (0.1, 0.25, 0.5), 0.25),
         similar(0.3, 0.5, 0.7)],
        rewire=pulled,
    ),
    "RivalEdit": HelpPicture(
        "6 Edit by two prompts (no inversion)", STAR_BECOMES_CIRCLE.by(FLOW),
        [Row("", [PHOTO], "The prompt makes the star a circle. One seed, one setting changed in "
                          "each row, from cfg 2.5 and source_cfg 1."),
         edit("cfg", (1.0, 2.5, 5.5), 5.5),
         edit("change", (0.3, 0.6, 0.85), 0.85),
         Row("path, average", [*edit("path", ("smooth", "direct"), "smooth").cells,
                               Cell("average 4", {("RivalEdit", "average"): 4})])],
        {("RivalEdit", "batch_size"): 1, ("RivalEdit", "cfg"): 2.5,
         ("RivalEdit", "source_cfg"): 1.0},
    ),
    "RivalChoose": HelpPicture(
        VARIATION, RINGS_PHOTO,
        [Row("", [PHOTO], "Six variations of it, as RIVAL Choose shows them: chosen is “best 2”, "
                          "rank_by palette."),
         Row("", [Cell("", output="RivalChoose")])],
        {("RivalKSampler", "batch_size"): 6}, chosen, pieces=[WHOLE],
    ),
    "RivalNoise": HelpPicture(
        VARIATION, STARS_PHOTO,
        [Row("", [PHOTO], "The same seed in two graphs."),
         Row("RIVAL KSampler, start", starts("RivalKSampler", "SaveImage")),
         Row("RIVAL Noise, start", starts("RivalNoise", "PreviewImage"))],
        PAPER | ONE, custom_sampling,
    ),
    "RivalSigmas": HelpPicture(
        VARIATION, STARS_PHOTO,
        [Row("", [PHOTO], "SamplerCustomAdvanced on the chain's own noise levels, the same seed."),
         Row("sampler", [custom_sampler("euler", False), custom_sampler("dpmpp_2m", False),
                         custom_sampler("euler_ancestral", True)])],
        PAPER | ONE, custom_sampling,
    ),
}
