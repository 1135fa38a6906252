"""The host's attention, and which of its functions reads longer keys fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import (
    attention_pytorch,
    attention_sub_quad,
    optimized_attention,
)
from torch import Tensor

from ...rival_core.errors import RivalError
from .apart import is_out_of_memory, name_of

OVERRIDE = "optimized_attention_override"


def attention(
    q: Tensor, k: Tensor, v: Tensor, extra_options: dict, mask: Tensor | None = None
) -> Tensor:
    """The host's fast attention, as a transformer block would call it; a mask adds to scores."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        mask=mask,
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )


def for_longer_keys(model_options: dict, device: torch.device) -> dict[str, Any]:
    """Transformer options with which longer keys are read fastest; none if they are already.

    On a CPU the host's default writes every score to fresh memory, which takes half of its time
    and twice as long for twice the keys; PyTorch's kernel keeps no scores. Whoever chose an
    attention, by a flag or in a node, keeps it.
    """
    chosen = OVERRIDE in model_options["transformer_options"] or args.use_quad_cross_attention
    if chosen or device.type != "cpu" or optimized_attention is not attention_sub_quad:
        return {}
    return {OVERRIDE: read_longer_keys}


def read_longer_keys(default: Callable, q: Tensor, k: Tensor, *rest, **kwargs) -> Tensor:
    """PyTorch's attention where there are more keys than queries, else the host's default."""
    function = attention_pytorch if k.shape[-2] > q.shape[-2] else default
    return function(q, k, *rest, **kwargs)


@contextmanager
def explained_kernel(override: Callable | None, q: Tensor, k: Tensor) -> Iterator[None]:
    """Says of an attention of another node that fails beside a photo what it was asked for."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        theirs = override is not None and override is not read_longer_keys
        if not theirs or isinstance(error, RivalError) or is_out_of_memory(error):
            raise
        reason = f"{error}".partition("\n")[0][:120] or type(error).__name__
        raise RivalError(
            f"the attention function {name_of(override)} that another node chose fails on "
            f"{q.shape[-2]} queries and {k.shape[-2]} keys ({reason}): remove that node"
        ) from error


# For hooks with a state of their own: torch.compile would trace them anew whenever it has changed.
untraced = torch.compiler.disable
