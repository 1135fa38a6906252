"""Cross-image attention where image and text share one softmax (RIVAL eq. 4-5 on DiTs).

Keys and values are lent as they enter attention: [B, H, L, D] or [B, L, C], the tokens always on
the last axis but one. A photo's image keys beside the row's own would halve the text's share, so
every photo comes with the row's other keys (text, references, padding) once more: then a photo
that equals the image changes nothing, which a bias on the scores would achieve, too, but not
without a mask, that fast kernels do not take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def arrangement(length: int, image: slice, photos: int, replace: bool) -> list[slice]:
    """Which of a row's own keys are read beside so many photos' image keys, in this order.

    image: where the row's image keys are among its `length` keys. All own keys (unless they are
    replaced), then the others once for each photo.
    """
    before, after = slice(0, image.start), slice(image.stop, length)
    others = [part for part in (before, after) if part.start < part.stop]
    return ([] if replace else [slice(0, length)]) + photos * others


def arranged(own: Tensor, pieces: Sequence[slice], photos: Tensor | None) -> Tensor:
    """Keys (or values, or anything with tokens on the last axis but one), the photos' behind."""
    parts = [own[..., piece, :] for piece in pieces]
    return torch.cat(parts if photos is None else [*parts, photos], dim=-2)


def arranged_rows(
    own: Tensor, images: Sequence[slice], photos: Sequence[Tensor], sets: int, replace: bool
) -> Tensor:
    """Keys of B rows [B, ..., L, C], whose images may lie at different places.

    images: of all rows, or one for each. photos: the photos' image keys [1, ..., n, C] for each
    chunk of rows, one chunk after another; sets: how many photos they are.
    """
    rows, length = len(own) // len(photos), own.shape[-2]
    lent = photos_of_rows(own, photos, rows)
    if len(images) == 1:
        return arranged(own, arrangement(length, images[0], sets, replace), lent)
    each = zip(own.split(1), images, lent.split(1))
    return torch.cat(
        [arranged(row, arrangement(length, image, sets, replace), p) for row, image, p in each]
    )


def photos_of_rows(own: Tensor, photos: Sequence[Tensor], rows: int) -> Tensor:
    """Of every row what it is lent; rows that are lent the same share one view."""
    if all(keys is photos[0] for keys in photos):
        return photos[0].to(own).expand(len(own), *photos[0].shape[1:])
    return torch.cat([keys.to(own) for keys in photos]).repeat_interleave(rows, dim=0)


def arranged_mask(
    mask: Tensor, images: Sequence[slice], lent: int, sets: int, replace: bool
) -> Tensor:
    """An attention mask [..., L] for keys as `arranged_rows` puts them; photos may be read.

    images: of all rows, or one for each row of the mask's first axis.
    """
    length = mask.shape[-1]

    def one(row: Tensor, image: slice) -> Tensor:
        parts = [row[..., piece] for piece in arrangement(length, image, sets, replace)]
        may = torch.ones if mask.dtype == torch.bool else torch.zeros
        return torch.cat([*parts, may(*row.shape[:-1], lent).to(row)], dim=-1)

    if len(images) == 1 or len(mask) != len(images):
        return one(mask, images[0])
    return torch.cat([one(row, image) for row, image in zip(mask.split(1), images)])


def allowed_bias(
    allowed: Tensor, image: slice, length: int, lengths: Sequence[int], replace: bool, like: Tensor
) -> Tensor:
    """[1 or B, L, keys]: what to add to scores, so that image queries read only allowed photos.

    allowed: [n, all photos' tokens], or one such for each row. The other keys that come with a
    photo are read where it is; other queries than the image's read all. A query that may read none
    should have strength 0, and reads all.
    """
    allowed = allowed if allowed.ndim == 3 else allowed[None]
    allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    others = length - (image.stop - image.start)
    own = [] if replace else [allowed.new_ones(*allowed.shape[:-1], length)]
    copies = [allowed[..., i : i + 1].expand(*allowed.shape[:-1], others) for i in starts.tolist()]
    opened = torch.cat([*own, *copies, allowed], dim=-1)
    bias = torch.zeros(len(allowed), length, opened.shape[-1], device=like.device, dtype=like.dtype)
    bias[:, image] = bias[:, image].masked_fill(~opened.to(like.device), -math.inf)
    return bias


def share_of_all(share: Tensor, image: slice, length: int) -> Tensor:
    """[1 or B, length, 1]: image queries' shares [1 or B, n, 1], and their mean for the others."""
    whole = share.mean(dim=1, keepdim=True).repeat(1, length, 1)
    whole[:, image] = share
    return whole
