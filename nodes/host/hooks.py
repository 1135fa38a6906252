"""What a patched MODEL needs: wrappers, hooks, the rows of a call, and calls of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...rival_core.chain.chain import Chain
from .apart import OURS, apart, explained, kept_out
from .loras import schedule_loras, settle

WRAPPED = (
    WrappersMP.OUTER_SAMPLE,
    WrappersMP.PREPARE_SAMPLING,
    WrappersMP.PREDICT_NOISE,
    WrappersMP.CALC_COND_BATCH,
)


class Enough(Exception):
    """Raised by a hook in a call of one's own: the rest of the model need not run."""


def set_wrappers(model: ModelPatcher, key: str, owner: Any) -> ModelPatcher:
    """A clone whose sampling goes through the owner's methods, in place of any under this key."""
    model = model.clone()
    for kind in WRAPPED:
        model.remove_wrappers_with_key(kind, key)
        model.add_wrapper_with_key(kind, key, getattr(owner, kind))
    return model


def wrapper_owner(model: ModelPatcher, key: str) -> Any:
    """The owner of the wrappers under this key, or None."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, key)
    return wrappers[0].__self__ if wrappers else None


def compute_uncond(model: ModelPatcher) -> ModelPatcher:
    """A clone whose unconditional prediction is made at a cfg of 1, too."""
    model = model.clone()
    model.model_options = {**model.model_options, "disable_cfg1_optimization": True}
    return model


def encode_conditioning(
    model: Any, conditioning: dict[str, Any], x: Tensor, sigmas: Tensor
) -> dict[str, list]:
    """Conditioning as the model's own inputs for a latent like x; `model` is a loaded BaseModel.

    sigmas: of the chain that it belongs to, which LoRA hooks are scheduled along.
    What the host draws for it (unCLIP's augmentation) is what it drew for the inversion, whatever
    the seed of the run; the generators are left as they are, since samplers may draw from them.
    """
    conds = {name: comfy.sampler_helpers.convert_cond(c) for name, c in conditioning.items()}
    conds = schedule_loras(conds, sigmas)
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        return comfy.samplers.process_conds(model, x, conds, x.device, seed=Chain.seed)


def evaluate(
    model: Any, conds: list[list[dict]], x: Tensor, sigma: Tensor, model_options: dict
) -> list[Tensor] | None:
    """The denoised estimate of x [1, C, H, W] for each conditioning, rows batched by the host.

    None where a hook raised Enough. No other node's wrapper sees the call.
    """
    conds = [settle(entries, model, float(sigma[0])) for entries in conds]
    try:
        with explained(kept_out(model_options)):
            return comfy.samplers.calc_cond_batch(model, conds, x, sigma, apart(model_options))
    except Enough:
        return None


def entered(transformer_options: dict) -> dict:
    """The options of a call from inside of our own wrapper around it, which acts no more."""
    wrappers = transformer_options["wrappers"]
    others = {k: v for k, v in wrappers[WrappersMP.APPLY_MODEL].items() if k != OURS}
    return {**transformer_options, "wrappers": {**wrappers, WrappersMP.APPLY_MODEL: others}}


def with_hooks(
    model_options: dict,
    attn1_patch: Any = None,
    attn1_replace: dict | None = None,
    attn2_replace: dict | None = None,
    around_apply_model: Sequence = (),
    **transformer_options,
) -> dict:
    """The options with an attn1 patch after all others, replaces and more transformer options.

    around_apply_model: the innermost wrappers of the calls, the innermost last.
    """
    options = {**model_options["transformer_options"], **transformer_options}
    if attn1_patch is not None:
        patches = options.get("patches", {})
        chained = [*patches.get("attn1_patch", []), attn1_patch]
        options["patches"] = {**patches, "attn1_patch": chained}
    if around_apply_model:
        wrappers = options.get("wrappers", {})
        keyed = {**wrappers.get(WrappersMP.APPLY_MODEL, {}), OURS: [*around_apply_model]}
        options["wrappers"] = {**wrappers, WrappersMP.APPLY_MODEL: keyed}
    for name, added in (("attn1", attn1_replace), ("attn2", attn2_replace)):
        if added:
            replaces = options.get("patches_replace", {})
            merged = {**replaces.get(name, {}), **added}
            options["patches_replace"] = {**replaces, name: merged}
    return {**model_options, "transformer_options": options}
