"""How a diffusers Flux transformer's attention is read and lent to: by its keys and values.

Text and image share one attention there, the text first. Only while it is hooked is that computed
here, since a processor of diffusers' lets nobody between the rotation of the keys and their use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..chain.tokens import Layer, Tokens
from ..steering.exemplar import Exemplar
from ..steering.joint import arranged_rows
from ..steering.positions import Grid, displacements, rotated
from ..steering.step import Step
from .port import Hooks

Attend = Callable[[Tensor, Tensor], Tensor]


class Processor:
    """An attention processor around a layer's own one, which acts where no hook does.

    Else the hook is called with (layer, keys, values, attend): keys and values [B, H, L, D] as
    they enter attention, text before image; attend gives [B, H, L, D] for others in their place.
    """

    def __init__(self, layer: Layer, own: Any, hooks: Hooks):
        self.layer, self.own, self.hooks = layer, own, hooks

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None,
                 image_rotary_emb=None):
        text = encoder_hidden_states
        if self.hooks.act is None:
            return self.own(attn, hidden_states, text, attention_mask, image_rotary_emb)
        turns = rotations(*image_rotary_emb)
        q, k, v = projected(attn, hidden_states, text)
        q, k = (rotated(each, turns, attn.heads) for each in (q, k))

        def attend(k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(q, k, v)

        out = self.hooks.act(self.layer, k, v, attend).transpose(1, 2).flatten(2)
        if text is None:
            return out
        of_text, of_image = out.split([text.shape[1], hidden_states.shape[1]], dim=1)
        return attn.to_out[0](of_image), attn.to_add_out(of_text)


def projected(attn: Any, image: Tensor, text: Tensor | None) -> list[Tensor]:
    """Queries, keys and values [B, H, L, D] before rotation; of an image that holds its text."""

    def heads(tokens: Tensor, *layers: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for layer in layers]

    q, k, v = heads(image, attn.to_q, attn.to_k, attn.to_v)
    parts = [(attn.norm_q(q), attn.norm_k(k), v)]
    if text is not None:
        q, k, v = heads(text, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        parts.insert(0, (attn.norm_added_q(q), attn.norm_added_k(k), v))
    return [torch.cat(each, dim=2) for each in zip(*parts)]


def rotations(cos: Tensor, sin: Tensor) -> Tensor:
    """[L, D / 2, 2, 2], from the transformer's own image_rotary_emb, [L, D] in equal pairs."""
    cos, sin = cos[:, ::2], sin[:, ::2]
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def image_ids(places: Tensor) -> Tensor:
    """The position ids [n, 3] of places [n, 2] in tokens (y, x): the first axis is always 0."""
    return torch.cat([torch.zeros_like(places[:, :1]), places], dim=1)


class Recorder:
    """For the exemplar's own call: keeps its image's keys and values.

    grid: the image's height and width in tokens, which are the last in every attention.
    """

    def __init__(self, rows: Sequence[str], grid: Grid):
        self.tokens: dict[str, dict[Layer, Tokens]] = {row: {} for row in rows}
        self.count = grid[0] * grid[1]

    def __call__(self, layer: Layer, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        # Copies: a view would keep the text's, too.
        own = (t[..., -self.count :, :].clone().split(1) for t in (k, v))
        for row, key, value in zip(self.tokens, *own):
            self.tokens[row][layer] = Tokens(key, value)
        return attend(k, v)


class Injection:
    """For the generated rows' call: they read the exemplars' keys, as the gates say."""

    def __init__(self, step: Step, roles: Sequence[str], target: Target):
        self.step, self.roles, self.target = step, roles, target

    def __call__(self, layer: Layer, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        steering = self.step.steering.at(layer)
        if not steering.readers:
            return attend(k, v)
        lent = [self.step.read(layer, role, self.target) for role in self.roles]
        length, (rows, columns) = k.shape[-2], self.target.grid
        images = [slice(length - rows * columns, length)]
        photos, replace = len(steering.readers), steering.replace
        injected = attend(
            arranged_rows(k, images, [each.context for each in lent], photos, replace),
            arranged_rows(v, images, [each.value for each in lent], photos, replace),
        )
        strength = steering.attention_strength
        return injected if strength >= 1 else torch.lerp(attend(k, v), injected, strength)


class Target:
    """The generated images' place in one model call, and where a photo lies beside it.

    rotation: ids [n, 3] -> (cos, sin), as the transformer's own pos_embed. grid: in tokens.
    """

    def __init__(self, rotation: Callable[[Tensor], tuple[Tensor, Tensor]], grid: Grid):
        self.rotation, self.grid = rotation, grid
        self.turns: dict[tuple[str, Grid], Tensor | None] = {}

    def place(self, exemplar: Exemplar, tokens: Tokens) -> Tokens:
        """The photo's tokens, their keys moved to where the exemplar says."""
        height, width = exemplar.size
        key = exemplar.positions, (height // 2, width // 2)
        if key not in self.turns:
            moves = displacements(*key, self.grid)
            if moves is not None:
                ids = image_ids(moves.to(tokens.context.device))
                moves = rotations(*self.rotation(ids))
            self.turns[key] = moves
        turns = self.turns[key]
        if turns is None:
            return tokens
        return Tokens(rotated(tokens.context, turns, tokens.context.shape[1]), tokens.value)
