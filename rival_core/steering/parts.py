"""Which part of a latent a piece of it is, for those who are shown the piece alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """The rows [h] and columns [w] that a piece has of a latent; in windows they need not touch."""

    rows: Tensor
    columns: Tensor
    size: tuple[int, int]  # of the latent

    def of(self, image: Tensor) -> Tensor:
        """The same part of an image [..., H, W] of the latent's size."""
        return image[..., self.rows.to(image.device)[:, None], self.columns.to(image.device)]


def find_part(piece: Tensor, whole: Tensor) -> Part | None:
    """Where in a latent [B, C, H, W] a piece [C, h, w] was cut from; None if it was not.

    Both may have one frame of time.

    Noise tells every place from all others, so equal numbers are the same place. A tile is looked
    for first, then rows and columns picked one by one, as windows that wrap around have them.
    """
    piece, whole = piece.flatten(0, -3), whole.flatten(1, -3)
    (height, width), size = piece.shape[1:], tuple(whole.shape[2:])
    if height > size[0] or width > size[1]:
        return None
    corners = (whole == piece[None, :, :1, :1]).all(dim=1).nonzero().tolist()
    for item, top, left in corners:
        if torch.equal(whole[item, :, top : top + height, left : left + width], piece):
            return Part(top + torch.arange(height), left + torch.arange(width), size)
    for item, top, left in corners:
        part = Part(
            matches(piece[:, :, 0], whole[item, :, :, left]),
            matches(piece[:, 0, :], whole[item, :, top, :]),
            size,
        )
        if torch.equal(part.of(whole[item]), piece):
            return part
    return None


def matches(few: Tensor, many: Tensor) -> Tensor:
    """For each column of `few` [C, n] the number of the first like it in `many` [C, N], or 0."""
    return (few[:, :, None] == many[:, None, :]).all(dim=0).byte().argmax(dim=1).cpu()
