"""RIVAL Choose: sample several, keep the best. No model calls."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..rival_core.choosing.choice import asks_for_best, parse, picks
from ..rival_core.choosing.scores import OUTSIDE, SCORES, Score, measure
from ..rival_core.errors import RivalError
from . import host
from .pictures.contact_sheet import draw_sheet, grid_of
from .schema import named, output, schema
from .start import draws_of
from .values import checked

NODE = "RIVAL Choose"
NO_LATENTS = (
    f"{NODE}: latents is not connected, so there are none to pass on: connect the latents that the "
    "images were decoded from, or go on from images."
)


def readable(chosen) -> None:
    parse(chosen)


def rankable(chosen, rank_by, photo, mask) -> None:
    """What "best" is ranked by must be there to be measured."""
    if rank_by == OUTSIDE and asks_for_best(parse(chosen)) and (photo is None or mask is None):
        lacking = "photo" if photo is None else "mask"
        raise RivalError(
            f"{lacking} is not connected, and the best by {OUTSIDE} takes a photo and a mask: "
            "connect it, or choose another rank_by"
        )


@checked(readable, rankable)
class RivalChoose(io.ComfyNode):
    """AIDI's (2309.04907) outer loop: sample several, keep the best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["choose", "pick", "select", "best of", "contact sheet", "image picker", "rank",
             "compare images", "select image from batch"],
            node_id="RivalChoose",
            display_name=NODE,
            description=(
                "Shows a batch as a contact sheet, with numbers and with how near each picture is "
                "to a photo, and passes on the ones you choose: click them, or write their "
                "numbers, then run again. Only what comes after runs. No model calls."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The batch to choose from."),
                io.String.Input(
                    "chosen",
                    default="best 1",
                    tooltip="Which pictures are passed on, in this order: numbers (2, 4 or 1-3), "
                    "best 1, best 3, all, or none, where what comes after waits. A click on a "
                    "picture chooses it alone, with Ctrl or Shift it is added or left out.",
                ),
                io.Combo.Input(
                    "rank_by",
                    options=list(SCORES),
                    default=SCORES[0],
                    tooltip="What best means: the smallest distance from the photo in colours "
                    "(palette), in patterns (texture), or pixel by pixel outside the mask. "
                    "Without a photo, palette and texture are from what the batch has in common, "
                    "so the best is the most typical.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="The latents that the images were decoded from: the same ones are "
                    "passed on.",
                ),
                io.Image.Input(
                    "photo",
                    optional=True,
                    tooltip="What the pictures are measured against, of any size. Several count "
                    "as what they have in common.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where a picture may differ from the photo (1), of any size: one, or "
                    "one for each image. What stayed outside it is measured.",
                ),
            ],
            is_output_node=True,
            outputs=[
                io.Image.Output(display_name="images", tooltip="The chosen ones, in their order."),
                io.Latent.Output(display_name="latents", tooltip="Of the chosen ones."),
                io.String.Output(
                    display_name="scores",
                    tooltip="A line for each image: its number, its distances in units of colour "
                    "(2 is just visible), and whether it is chosen.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, chosen, rank_by, latents=None, photo=None, mask=None) -> io.NodeOutput:
        terms = parse(chosen)
        with named(NODE):
            shown = pictures("images", images)
            check(len(images), latents, mask)
            found = measure(shown, None if photo is None else pictures("photo", photo), mask)
            ranking = found[rank_by].ranking() if asks_for_best(terms) else ()
            numbers = picks(terms, len(images), ranking)
        captions = [caption(found, i) for i in range(len(images))]
        table = "\n".join(line(i, words, numbers) for i, words in enumerate(captions))
        sheet = cls.sheet(shown, captions, found, numbers)
        text = said(numbers, len(images), photo)
        return output(*passed(images, latents, numbers), table, text=text, **sheet)

    @classmethod
    def sheet(cls, images: Tensor, captions: list, found: dict[str, Score], numbers: list) -> dict:
        """The contact sheet of [n, 3, H, W], and what web/js/choose.js needs to cut it up."""
        grid = grid_of(len(images), (images.shape[3], images.shape[2]), len(captions[0]))
        images = images.movedim(1, -1)
        sheet = draw_sheet(grid, lambda i: host.to_pillow(images[i]), captions, numbers)
        told = {
            "size": grid.size,
            "boxes": [grid.box(i) for i in range(grid.count)],
            "captions": captions,
            "rankings": {name: score.ranking() for name, score in found.items()
                         if score.values is not None},
        }
        preview = ui.PreviewImage(host.from_pillow(sheet), cls=cls).as_dict()
        return {**preview, "sheets": [told]}


def pictures(name: str, images: Tensor) -> Tensor:
    """An IMAGE [n, H, W, 1 or more channels] as [n, 3, H, W]."""
    if images.ndim != 4 or not images.numel():
        raise RivalError(
            f"{name} is empty or no batch of images (shape {list(images.shape)}): connect an "
            "IMAGE, for instance from VAE Decode"
        )
    rgb = images[..., :3] if images.shape[3] >= 3 else images[..., :1].expand(-1, -1, -1, 3)
    return rgb.movedim(-1, 1)


def check(count: int, latents: dict | None, mask: Tensor | None) -> None:
    """Raises unless latents and masks are of so many images."""
    if latents is not None:
        samples = latents["samples"]
        held = 0 if getattr(samples, "is_nested", False) else len(samples)
        if held != count:
            raise RivalError(
                f"images has {count} pictures and latents {held or 'several streams'}: connect "
                "the latents that the images were decoded from"
            )
        draws_of(latents, 1)
    if mask is not None:
        if mask.ndim != 3 or not mask.numel() or not torch.isfinite(mask).all():
            raise RivalError(
                f"the mask has the shape {list(mask.shape)}, or holds NaN: give one mask"
            )
        if len(mask) not in (1, count):
            raise RivalError(
                f"mask is a batch of {len(mask)} and images of {count}: give one, or one for each"
            )


def passed(images: Tensor, latents: dict | None, numbers: list[int]) -> tuple:
    """IMAGE and LATENT of the chosen ones, in their order; what needs one that is none waits."""
    if not numbers:
        return host.none_of(), host.none_of()
    index = torch.tensor(numbers) - 1
    chosen = host.none_of(NO_LATENTS) if latents is None else of_latents(latents, index)
    return images[index.to(images.device)], chosen


def of_latents(latents: dict, index: Tensor) -> dict:
    """The LATENT of some of its items, each with its own mask and its own draw of a seed."""
    samples, mask = latents["samples"], latents.get("noise_mask")
    passed = {**latents, "samples": samples[index.to(samples.device)]}
    if mask is not None:  # fewer masks than items are taken in turn, as by core
        passed["noise_mask"] = mask[index.to(mask.device) % len(mask)]
    draws = draws_of(latents, 1)
    return {**passed, "batch_index": [draws[i] for i in index.tolist()]}


def caption(found: dict[str, Score], i: int) -> list[str]:
    """What was measured of an image, a line for each score that could be."""
    return [f"{name} {score.values[i]:.2f}" for name, score in found.items()
            if score.values is not None]


def line(i: int, words: list[str], numbers: list[int]) -> str:
    return f"picture {i + 1}: {', '.join(words)}{', chosen' if i + 1 in numbers else ''}"


def said(numbers: list[int], count: int, photo: Tensor | None) -> list[str]:
    """What the node says of a run."""
    listed = "all" if numbers == [*range(1, count + 1)] else ", ".join(map(str, numbers))
    return [
        f"passed on: {listed} (of {count})" if numbers else
        "nothing is chosen, so what comes after waits",
        "distances from the photo" if photo is not None else
        "no photo is connected, so distances are from what the pictures have in common",
    ]
