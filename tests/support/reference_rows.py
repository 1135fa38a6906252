"""An oracle for one model call: the exemplar as further rows of the ordinary batch.

Self-attention is swapped on the module instances, as in official.py: a generated row's keys and
values are made from the tokens of the rows that it reads. No wrapper or hook of the host takes
part, except those that the given MODEL carries already (ToMe, HyperTile, another pack's patch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import official
import torch
from torch import Tensor


class Row(NamedTuple):
    """One row of a batch."""

    name: str
    x: Tensor  # [1, C, H, W]
    prompt: list  # CONDITIONING of one entry
    reads: tuple[str, ...] = ()  # the rows whose tokens it reads; none: its own
    role: str = "positive"
    strength: float = 1.0  # 1 - strength of plain attention is blended in, at every layer


class Photo(NamedTuple):
    """An exemplar at one sigma."""

    x: Tensor
    positive: list
    negative: list | None = None


Tokens = dict[tuple[str, str], tuple[Tensor, Tensor]]  # (layer, row): context, value
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v of one row


def attention_layers(model) -> dict[str, torch.nn.Module]:
    modules = model.model.diffusion_model.named_modules()
    return {name: module for name, module in modules if name.endswith("attn1")}


@torch.no_grad()
def denoise(
    model,
    rows: Sequence[Row],
    sigma: float,
    tokens: Tokens | None = None,
    replaced: dict[str, Attention] = {},
    **arguments,
) -> list[Tensor]:
    """Each row's denoised estimate, from one call of the model.

    tokens: what rows of earlier calls left for these to read; this call's are added.
    replaced: by layer, an attention that another node computes there from the row's own q, k, v.
    """
    tokens = {} if tokens is None else tokens
    encoded = [encode(model, row) for row in rows]
    conds = {key: torch.cat([cond[key] for cond in encoded]) for key in encoded[0]}
    x = torch.cat([row.x for row in rows])
    options = {**model.model_options["transformer_options"]}
    with swapped(model, rows, tokens, replaced):
        out = model.model.apply_model(
            x, x.new_full([len(x)], sigma), transformer_options=options, **conds, **arguments
        )
    return list(out.split(1))


def encode(model, row: Row) -> dict[str, Tensor]:
    """The row's prompt as the model's own arguments."""
    import comfy.sampler_helpers
    import comfy.samplers

    conds = {row.role: comfy.sampler_helpers.convert_cond(row.prompt)}
    empty = torch.zeros_like(row.x)
    conds = comfy.samplers.process_conds(model.model, row.x, conds, row.x.device, empty)
    return {
        key: cond.process_cond(batch_size=1, area=None).cond
        for key, cond in conds[row.role][0]["model_conds"].items()
    }


@contextmanager
def swapped(model, rows, tokens, replaced):
    """The model with its self-attention reading across rows, undone on the way out."""
    layers = attention_layers(model)
    try:
        for name, layer in layers.items():
            layer.forward = across_rows(name, layer, rows, tokens, replaced.get(name))
        yield
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)


def across_rows(name: str, layer, rows: Sequence[Row], tokens: Tokens, replaced: Attention | None):
    """A forward for one layer. HyperTile cuts a row's queries, and ComfyUI its keys, in tiles."""

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        value = context if value is None else value
        for row, *own in zip(rows, context, value):
            tokens[name, row.name] = own
        tiles = len(x) // len(rows)
        out = []
        for i, queries in enumerate(x):
            row, tile = rows[i // tiles], i % tiles
            own = [t.chunk(tiles)[tile] for t in tokens[name, row.name]]
            attend = replaced or attention_of(layer)
            result = plain = attend(layer.to_q(queries), *project(layer, *own))
            if row.reads and replaced is None:
                read = [own if r == row.name else tokens[name, r] for r in row.reads]
                keys_and_values = project(layer, *(torch.cat(parts) for parts in zip(*read)))
                result = attend(layer.to_q(queries), *keys_and_values)
            out.append(row.strength * result + (1 - row.strength) * plain)
        return layer.to_out(torch.stack(out))

    return forward


def project(layer, context: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return layer.to_k(context), layer.to_v(value)


def attention_of(layer) -> Attention:
    return lambda q, k, v: official.softmax_attention(q, k, v, layer.heads)


def photo_rows(photos: Sequence[Photo]) -> list[Row]:
    """The exemplars' own rows, which read themselves."""
    rows = []
    for i, photo in enumerate(photos):
        rows.append(Row(f"photo {i} positive", photo.x, photo.positive))
        if photo.negative is not None:
            rows.append(Row(f"photo {i} negative", photo.x, photo.negative, role="negative"))
    return rows


def reads(photos: Sequence[Photo], role: str, own: str, replace: bool) -> tuple[str, ...]:
    """The names of the rows that a generated row reads."""
    read = [
        f"photo {i} {'positive' if photo.negative is None else role}"
        for i, photo in enumerate(photos)
    ]
    return (*read,) if replace else (*read, own)


def generated_rows(x: Tensor, prompts, photos, replace, strength=1.0) -> list[Row]:
    """Every prompt's row of every batch item; prompts: {"positive": ..., "negative": ...}."""
    return [
        Row(
            f"{role} {i}",
            item,
            prompt,
            reads(photos, role, f"{role} {i}", replace),
            role,
            strength,
        )
        for role, prompt in prompts.items()
        for i, item in enumerate(x.split(1))
    ]


def predict(
    model, x, sigma, prompts, cfg, photos, replace, normalize, appended=True, strength=1.0, **kwargs
) -> Tensor:
    """The guided denoised estimate of x [B, C, H, W], read from the photos.

    normalize: whether the predicted noise takes the (first) photo's statistics. Photos of other
    sizes cannot be appended and run in calls of their own; so do all if not `appended`, for nodes
    that draw random numbers in each call.
    """
    ours, theirs = photo_rows(photos), generated_rows(x, prompts, photos, replace, strength)
    appended = appended and all(photo.x.shape[2:] == x.shape[2:] for photo in photos)
    calls = [[*ours, *theirs]] if appended else [*([row] for row in ours), theirs]
    tokens: Tokens = {}
    out = [d for rows in calls for d in denoise(model, rows, sigma, tokens, **kwargs)]
    photo, rows = out[0], torch.cat(out[len(ours) :]).chunk(len(prompts))
    guided = rows[0] if len(rows) == 1 else rows[1] + cfg * (rows[0] - rows[1])
    return normalized(x, guided, photos[0].x, photo, sigma, strength) if normalize else guided


def normalized(x, guided, photo_x, photo_denoised, sigma, strength=1.0) -> Tensor:
    """The guided denoised estimate, its predicted noise with the photo's statistics."""
    eps, photo_eps = (x - guided) / sigma, (photo_x - photo_denoised) / sigma
    return x - sigma * torch.lerp(eps, official.adain(eps, photo_eps), strength)
