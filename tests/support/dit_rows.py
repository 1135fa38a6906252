"""RIVAL on DiTs in one batch, written from the method's text: an oracle for one model call.

The photos are further rows of the ordinary batch. Attention is swapped for a softmax by hand, in
which a generated row reads the keys of others' images, and with each of them its own text's once
more. No hook of the pack takes part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import reference_rows
import torch
from torch import Tensor


class Row(NamedTuple):
    """One row of the batch."""

    x: Tensor  # [1, C, (1,) H, W]
    prompt: list
    role: str = "positive"
    reads: Sequence[int] = ()  # numbers of the rows whose image keys it reads
    own: bool = True  # and its own
    shares: Sequence[Tensor | float] = ()  # for each of them 0 to 1, over the queries of the image
    seen: Sequence[Tensor | None] = ()  # for each of them which of its tokens
    columns: float = 0.0  # by how many tokens their keys move to the right


class Layout(NamedTuple):
    """Where a kind of network's image is, and how its keys are turned."""

    calls: list[str | None]  # of one model call: where the image's keys are, if there are any
    axis: slice  # of a head, the numbers that are turned by the column
    theta: float


LAYOUTS = {  # of the miniatures, with heads of 32
    "flux": Layout(["after text"] * 4, slice(20, 32), 10000.0),
    "qwen": Layout(["after text"] * 2, slice(20, 32), 10000.0),
    "sd3": Layout(["last"] * 2, slice(0, 0), 1.0),
    "zimage": Layout([None, "first", "after padded", "after padded"], slice(20, 32), 256.0),
    "lumina2": Layout([None, "first", "last", "last"], slice(20, 32), 10000.0),
    "wan": Layout(["first", None] * 2, slice(22, 32), 10000.0),
}


@torch.no_grad()
def denoise(
    model, family: str, rows: Sequence[Row], sigma: float, **arguments
) -> list[Tensor]:
    """Each row's denoised estimate, from one call of the bare model."""
    conds = [encode(model, row) for row in rows]
    joined = {key: torch.cat([cond[key] for cond in conds]) if torch.is_tensor(value) else value
              for key, value in conds[0].items()}
    x = torch.cat([row.x for row in rows])
    attention = Attention(LAYOUTS[family], rows, conds[0]["c_crossattn"].shape[1])
    options = {"optimized_attention_override": attention}
    out = model.model.apply_model(x, x.new_full([len(x)], sigma), transformer_options=options,
                                  **joined, **arguments)
    assert attention.number == len(attention.layout.calls)
    return list(out.split(1))


def encode(model, row: Row) -> dict:
    return reference_rows.encode(model, row)


class Attention:
    """The host's attention override of one model call."""

    def __init__(self, layout: Layout, rows: Sequence[Row], text: int):
        self.layout, self.rows, self.text, self.number = layout, rows, text, 0
        height, width = rows[0].x.shape[-2:]
        self.tokens = math.ceil(height / 2) * math.ceil(width / 2)

    def __call__(self, func, q, k, v, heads, mask=None, *args, skip_reshape=False, **kwargs):
        where, self.number = self.layout.calls[self.number], self.number + 1
        q, k, v = (apart(t, heads, skip_reshape) for t in (q, k, v))
        starts = {"first": 0, "last": k.shape[2] - self.tokens, "after text": self.text,
                  "after padded": 32 * math.ceil(self.text / 32)}  # fmt: skip
        out = []
        for i, row in enumerate(self.rows):
            bias = None if mask is None else as_bias(mask, i, len(q))
            own = softmax(q[i], k[i], v[i], bias)
            if where is not None and row.reads:
                image = torch.arange(self.tokens) + starts[where]
                own = self.read(row, i, q[i], k, v, image, bias, own)
            out.append(own)
        return torch.stack(out).transpose(1, 2).flatten(2)

    def read(self, row: Row, i: int, q, k, v, image: Tensor, bias, plain: Tensor) -> Tensor:
        """Every query's attention to itself and what it reads, and how much it takes of that."""
        queries, length = q.shape[1], k.shape[2]
        others = torch.tensor([j for j in range(length) if j not in set(image.tolist())]).long()
        own = torch.zeros(queries, length) if bias is None else bias.expand(queries, -1)
        weights = torch.stack([torch.as_tensor(s).float().expand(self.tokens) for s in row.shares])
        parts = [(k[i], v[i], own)] if row.own else []
        for photo, weight, seen in zip(row.reads, weights, row.seen or [None] * len(row.reads)):
            tokens = image if seen is None else image[seen]
            moved = turned(k[photo][:, tokens], self.layout, row.columns)
            open_to = torch.zeros(queries, len(others) + len(tokens))
            open_to[:, : len(others)] = own[:, others]
            open_to[image[(weight == 0) & (weights.amax(0) > 0)]] = -math.inf
            parts.append((torch.cat([k[i][:, others], moved], 1),
                          torch.cat([v[i][:, others], v[photo][:, tokens]], 1), open_to))
        keys, values, biases = zip(*parts)
        read = softmax(q, torch.cat(keys, 1), torch.cat(values, 1), torch.cat(biases, 1))
        share = torch.full((queries,), float(weights.amax(0).mean()))  # text: the image's mean
        share[image] = weights.amax(0)
        return torch.lerp(plain, read, share[:, None])


def apart(t: Tensor, heads: int, split: bool) -> Tensor:
    """[B, H, L, D]"""
    return t if split else t.reshape(*t.shape[:2], heads, -1).transpose(1, 2)


def as_bias(mask: Tensor, i: int, rows: int) -> Tensor:
    """[1 or L, keys], of a mask [B, keys] or [B, 1 or L, keys], in the row's own part."""
    mask = mask if mask.ndim == 2 else mask.reshape(len(mask), -1, mask.shape[-1])
    mask = (mask[:, None] if mask.ndim == 2 else mask).expand(rows, -1, -1)[i]
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    return mask


def softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores if bias is None else scores + bias).softmax(dim=-1) @ v


def turned(keys: Tensor, layout: Layout, columns: float) -> Tensor:
    """Keys [H, L, 32], their neighbours on the column's axis turned as pairs."""
    own = keys[..., layout.axis].double()
    half = own.shape[-1] // 2
    if not half or not columns:
        return keys
    angles = columns * layout.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = own[..., 0::2], own[..., 1::2]
    pair = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    keys = keys.clone()
    keys[..., layout.axis] = torch.stack(pair, dim=-1).flatten(-2).to(keys)
    return keys
