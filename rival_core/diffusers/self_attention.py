"""How a diffusers UNet's self-attention is read and lent to: by the tokens it is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..chain.tokens import Layer, Tokens
from ..steering.attention import blended_attention, lengthen
from ..steering.step import Step
from .port import Hooks

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Processor:
    """An attention processor around a layer's own one, which goes on doing the computation."""

    def __init__(self, layer: Layer, own: Any, hooks: Hooks):
        self.layer, self.own, self.hooks = layer, own, hooks

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if self.hooks.act is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """Attention whose keys and values are both projected from k, which is v."""
            return self.own(attn, q, encoder_hidden_states=k)

        return self.hooks.act(self.layer, hidden_states, attend)


class Recorder:
    """For the exemplar's own call: keeps what its self-attention reads."""

    def __init__(self, rows: Sequence[str]):
        self.tokens: dict[str, dict[Layer, Tokens]] = {row: {} for row in rows}

    def __call__(self, layer: Layer, own: Tensor, attend: Attend) -> Tensor:
        for row, kept in zip(self.tokens, own.split(1)):
            self.tokens[row][layer] = Tokens(kept, kept)
        return attend(own, own, own)


class Injection:
    """For the generated rows' call: they read the exemplars' tokens, as the gates say."""

    def __init__(self, step: Step, roles: Sequence[str]):
        self.step, self.roles = step, roles

    def __call__(self, layer: Layer, own: Tensor, attend: Attend) -> Tensor:
        steering = self.step.steering.at(layer)
        if not steering.readers:
            return attend(own, own, own)
        strength, replace = steering.attention_strength, steering.replace
        chunks = [self.step.read(layer, role).context for role in self.roles]
        longer = lengthen(own, chunks, len(own) // len(chunks), replace and strength >= 1)
        if strength >= 1:
            return attend(own, longer, longer)
        length = chunks[0].shape[1]
        return blended_attention(attend, own, longer, longer, length, replace, strength)
