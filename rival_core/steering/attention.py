"""Cross-image self-attention: generated tokens read the exemplar's (RIVAL section 3.2, eq. 4-5).

The exemplar's normed hidden states are lengthened or replaced *before* the key and value
projections: the weights are shared, so that equals injecting K and V, and LoRA applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from einops import repeat
from torch import Tensor


def lengthen(own: Tensor, exemplar: Sequence[Tensor], rows: int, replace: bool) -> Tensor:
    """What each generated row's keys (or values) are made from.

    own:      [len(exemplar) * rows, L, C], the rows' own tokens, one chunk of rows after another.
    exemplar: for each chunk its exemplar tokens, [1, L_R, C].
    Returns [., L_R, C] if `replace`, else [., L_R + L, C], the exemplar first.
    """
    # Rows that read the same exemplar share one view; attention kernels accept the zero stride.
    if all(tokens is exemplar[0] for tokens in exemplar):
        tokens = exemplar[0].to(own).expand(len(own), -1, -1)
    else:
        tokens = repeat(torch.cat([*exemplar]).to(own), "chunk l c -> (chunk row) l c", row=rows)
    return tokens if replace else torch.cat([tokens, own], dim=1)


def blended_attention(
    attention: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    exemplar_length: int,
    replace: bool,
    strength: float | Tensor,
    allowed: Tensor | None = None,
) -> Tensor:
    """(1 - s) plain + s injected attention; k, v hold exemplar tokens, then own.

    strength: one for all, or [1 or B, L, 1] for each query. allowed: [L, exemplar_length], or one
    such for each of B rows, which of the exemplars' tokens a query may read; a query that may read
    none should have strength 0. Costs one plain attention more than the injected one.
    """
    n = exemplar_length
    plain = attention(q, k[:, n:], v[:, n:])
    if replace:
        k, v = k[:, :n], v[:, :n]
    if allowed is None:
        injected = attention(q, k, v)
    else:
        own = allowed.new_ones(*allowed.shape[:-1], k.shape[1] - n)
        open_keys = torch.cat([allowed | ~allowed.any(dim=-1, keepdim=True), own], dim=-1)
        bias = torch.zeros(open_keys.shape, device=q.device, dtype=q.dtype)
        injected = attention(q, k, v, mask=bias.masked_fill(~open_keys.to(q.device), -math.inf))
    if isinstance(strength, Tensor):
        strength = strength.to(plain)
    return torch.lerp(plain, injected, strength)
