"""RIVAL Choose: what it passes on, what it shows, what it refuses."""

from __future__ import annotations

import math

import prompts
import pytest
import torch

Image = pytest.importorskip("PIL.Image")  # both come with a host's requirements
np = pytest.importorskip("numpy")

pytestmark = pytest.mark.any_host


def batch(count: int, size=(24, 32), channels: int = 3) -> torch.Tensor:
    """An IMAGE whose pictures are each of one colour."""
    colors = torch.rand(count, 1, 1, channels, generator=torch.Generator().manual_seed(count))
    return colors.expand(count, *size, channels).contiguous()


def choose(images, chosen="best 1", rank_by="palette", **inputs):
    from comfyui_rival.nodes import RivalChoose

    return RivalChoose.execute(images, chosen, rank_by, **inputs)


def message(output) -> str | None:
    """Of what stands in for an output that there is not."""
    from comfy_execution.graph_utils import ExecutionBlocker

    assert isinstance(output, ExecutionBlocker)
    return output.message


def sheet_of(shown: dict) -> Image.Image:
    import folder_paths

    (image,) = shown["images"]
    assert image["type"] == "temp"
    return Image.open(f"{folder_paths.get_temp_directory()}/{image['subfolder']}"
                      f"/{image['filename']}")


def test_the_chosen_images_are_passed_on_as_they_are_in_the_texts_order():
    images = batch(4, channels=4)
    passed, latents, scores = choose(images, "3, 1").args
    assert torch.equal(passed, images[[2, 0]])
    assert "latents is not connected" in message(latents)
    lines = scores.splitlines()
    assert [line.endswith(", chosen") for line in lines] == [True, False, True, False]
    assert lines[1].startswith("picture 2: palette ") and "texture " in lines[1]


def test_latents_keep_their_masks_and_their_draws_of_the_seed():
    """batch_index as core's Latent From Batch has it: the same seed gives the same item again."""
    samples = torch.randn(4, 4, 3, 4)
    masks = torch.rand(4, 1, 24, 32)
    latents = {"samples": samples, "noise_mask": masks, "kept": "as it is"}
    _, passed, _ = choose(batch(4), "3, 1", latents=latents).args
    assert torch.equal(passed["samples"], samples[[2, 0]])
    assert torch.equal(passed["noise_mask"], masks[[2, 0]])
    assert passed["batch_index"] == [2, 0] and passed["kept"] == "as it is"
    assert set(latents) == {"samples", "noise_mask", "kept"}
    _, again, _ = choose(batch(2), "2", latents={**passed, "noise_mask": masks[:1]}).args
    assert again["batch_index"] == [0] and torch.equal(again["noise_mask"], masks[:1])
    _, few, _ = choose(batch(4), "3, 4", latents={**latents, "noise_mask": masks[:2]}).args
    assert torch.equal(few["noise_mask"], masks[:2])  # 0 1 0 1, as by core


def test_the_best_is_the_nearest_to_the_photo_by_what_ranks():
    photo = batch(1)
    images = torch.cat([photo + 0.2, photo + 0.02, photo.clone(), photo - 0.3]).clamp(0, 1)
    images[2, :, :16] = 1  # far in colours, near outside the mask
    mask = torch.zeros(1, 6, 8)
    mask[:, :, :4] = 1
    for rank_by, best in {"palette": 1, "outside mask": 2}.items():
        passed, _, scores = choose(images, "best", rank_by, photo=photo, mask=mask).args
        assert torch.equal(passed, images[[best]])
        assert "outside mask " in scores and scores.splitlines()[best].endswith(", chosen")
    assert choose(images, "best 4", photo=photo).args[0].shape == images.shape


def test_none_lets_what_comes_after_wait():
    output = choose(batch(3), "none", latents={"samples": torch.zeros(3, 4, 3, 4)})
    images, latents, scores = output.args
    assert message(images) is message(latents) is None
    assert len(scores.splitlines()) == 3 and "chosen" not in scores
    assert "waits" in output.ui["text"][0]


@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_the_sheet_shows_every_picture_where_the_browser_is_told(count):
    images = batch(count, size=(24, 32) if count < 64 else (9, 8))
    shown = choose(images, "1", photo=batch(1)).ui
    (told,), sheet = shown["sheets"], sheet_of(shown)
    assert sheet.size == tuple(told["size"]) and max(sheet.size) < 3000
    assert len(told["boxes"]) == len(told["captions"]) == count
    for box, image in zip(told["boxes"], images):
        left, top, width, height = box
        assert width / height == pytest.approx(image.shape[1] / image.shape[0], rel=0.02)
        cut = np.asarray(sheet.crop((left, top, left + width, top + height))) / 255
        assert np.abs(cut - image[0, 0].numpy()).max() < 0.01  # and nothing else is written there
    assert sorted(told["rankings"]["palette"]) == [*range(1, count + 1)]
    left, top, width, height = told["boxes"][0]
    assert sheet.getpixel((left + width - 2, top + height + 1)) == (0, 114, 178)  # it is chosen
    assert "distances from the photo" in shown["text"][0]
    assert "have in common" in choose(images).ui["text"][0]


def test_pictures_of_other_kinds_are_shown_as_they_are_saved():
    grey = choose(batch(2, channels=1), "all")
    assert grey.args[0].shape[-1] == 1
    spoiled = batch(2)
    spoiled[0] = math.nan
    output = choose(spoiled, "1", photo=batch(1))
    assert output.args[0].isnan().all() and "nan" not in output.args[2]
    box = output.ui["sheets"][0]["boxes"][0]
    assert sheet_of(output.ui).getpixel((box[0] + 2, box[1] + 2)) == (0, 0, 0)


LATENT = {"samples": torch.zeros(4, 4, 3, 4)}


@pytest.mark.parametrize("inputs, said", [
    ({"chosen": "5"}, "asks for picture 5 and there are 4"),
    ({"chosen": "best 5"}, "asks for the best 5 and there are 4"),
    ({"latents": {"samples": torch.zeros(3, 4, 3, 4)}}, "images has 4 pictures and latents 3"),
    ({"latents": {**LATENT, "batch_index": [0]}}, "batch_index 1 entries"),
    ({"mask": torch.zeros(3, 8, 8)}, "mask is a batch of 3 and images of 4"),
    ({"mask": torch.full((1, 8, 8), math.nan)}, "holds NaN"),
    ({"photo": torch.zeros(0, 8, 8, 3)}, "photo is empty"),
    ({"photo": torch.zeros(8, 8, 3)}, "photo is empty or no batch"),
    ({"images": torch.zeros(0, 8, 8, 3)}, "images is empty"),
    ({"rank_by": "outside mask", "photo": batch(1), "mask": torch.ones(1, 8, 8)},
     "covers everything"),
    ({"rank_by": "outside mask", "photo": batch(2), "mask": torch.zeros(1, 8, 8)},
     "photo holds 2"),
])
def test_what_does_not_fit_gets_one_sentence(inputs, said):
    with pytest.raises(ValueError, match=rf"^RIVAL Choose: [^\n]*{said}[^\n]*\.$"):
        choose(**{"images": batch(4), **inputs})


def test_what_has_several_streams_is_refused():
    class Nested:
        is_nested = True

    with pytest.raises(ValueError, match=r"^RIVAL Choose: .* latents several streams: .*\.$"):
        choose(batch(4), latents={"samples": Nested()})


def test_a_score_that_is_not_asked_for_may_be_missing():
    scores = choose(batch(4), "2", "outside mask").args[2]
    assert "outside mask" not in scores and "palette" in scores


@pytest.mark.host
def test_over_http(server):
    """The sheet is in the history; who needs latents that are not there is told so."""
    from comfy_process import ExecutionError

    graph = {
        "many": prompts.node("EmptyImage", width=32, height=24, batch_size=4, color=255),
        "choose": prompts.node("RivalChoose", images=["many", 0], chosen="2, 4",
                               rank_by="palette"),
        "save": prompts.node("PreviewImage", images=["choose", 0]),
    }
    outputs = server.run(graph).outputs
    assert len(outputs["save"]["images"]) == 2 and len(outputs["choose"]["images"]) == 1
    assert server.view(outputs["choose"]["images"][0])[:4] == b"\x89PNG"
    graph["choose"]["inputs"]["chosen"] = "none"
    assert set(server.run(graph).outputs) == {"choose"}
    graph["show"] = prompts.node("PreviewAny", source=["choose", 1])
    graph["choose"]["inputs"]["chosen"] = "all"
    with pytest.raises(ExecutionError, match="RIVAL Choose: latents is not connected"):
        server.run(graph)
