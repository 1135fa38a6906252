"""What a patched MODEL needs: wrappers, hooks, the rows of a call, and calls of its own."""

from __future__ import annotations

import uuid
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .loras import schedule_loras, settle

# Wrappers that skip model calls by watching how much the latent changed on its way down. The
# exemplar's calls are of other latents: they must neither be skipped nor watched.
STEP_SKIPPERS = {"easycache", "lazycache"}
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


def without_step_skippers(model: ModelPatcher) -> ModelPatcher:
    """A clone all of whose calls are made; the MODEL itself if they are already."""
    found = [(kind, key) for kind, keyed in model.wrappers.items() for key in keyed]
    found = [(kind, key) for kind, key in found if key in STEP_SKIPPERS]
    if not found:
        return model
    model = model.clone()
    for kind, key in found:
        model.remove_wrappers_with_key(kind, key)
    return model


def wrapper_owner(model: ModelPatcher, key: str) -> Any:
    """The owner of the wrappers under this key, or None."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, key)
    return wrappers[0].__self__ if wrappers else None


def set_post_cfg(model: ModelPatcher, function: Any, needs_uncond: bool) -> ModelPatcher:
    """A clone whose guided prediction goes through a function after all others."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(function, disable_cfg1_optimization=needs_uncond)
    return model


def row_roles(conds: dict[str, list[dict]]) -> dict[Any, str]:
    """Each conditioning entry's uuid, and whether its rows are "positive" or "negative".

    Where ComfyUI gave a negative entry a positive one's uuid (it does for areas), the entry is
    given one of its own: `conds` is this run's copy.
    """
    roles: dict[Any, str] = {}
    for name, entries in conds.items():
        role = "negative" if name == "negative" else "positive"
        for entry in entries:
            if roles.setdefault(entry["uuid"], role) != role:
                entry["uuid"] = uuid.uuid4()
                roles[entry["uuid"]] = role
    return roles


def encode_conditioning(
    model: Any, conditioning: dict[str, Any], x: Tensor, sigmas: Tensor
) -> dict[str, list]:
    """Conditioning as the model's own inputs for a latent like x; `model` is a loaded BaseModel.

    sigmas: of the chain that it belongs to, which LoRA hooks are scheduled along.
    """
    conds = {name: comfy.sampler_helpers.convert_cond(c) for name, c in conditioning.items()}
    return comfy.samplers.process_conds(model, x, schedule_loras(conds, sigmas), x.device)


def evaluate(
    model: Any, conds: list[list[dict]], x: Tensor, sigma: Tensor, model_options: dict
) -> list[Tensor] | None:
    """The denoised estimate of x [1, C, H, W] for each conditioning, rows batched by the host.

    None where a hook raised Enough.
    """
    options = {k: v for k, v in model_options.items() if k != "context_handler"}
    wrappers = {
        kind: {key: found for key, found in keyed.items() if key not in STEP_SKIPPERS}
        for kind, keyed in options["transformer_options"].get("wrappers", {}).items()
    }
    options["transformer_options"] = {**options["transformer_options"], "wrappers": wrappers}
    conds = [settle(entries, model, float(sigma[0])) for entries in conds]
    try:
        return comfy.samplers.calc_cond_batch(model, conds, x, sigma, options)
    except Enough:
        return None


def with_hooks(
    model_options: dict,
    attn1_patch: Any = None,
    attn1_replace: dict | None = None,
    attn2_replace: dict | None = None,
    **transformer_options,
) -> dict:
    """The options with an attn1 patch after all others, replaces and more transformer options."""
    options = {**model_options["transformer_options"], **transformer_options}
    if attn1_patch is not None:
        patches = options.get("patches", {})
        chained = [*patches.get("attn1_patch", []), attn1_patch]
        options["patches"] = {**patches, "attn1_patch": chained}
    for name, added in (("attn1", attn1_replace), ("attn2", attn2_replace)):
        if added:
            replaces = options.get("patches_replace", {})
            merged = {**replaces.get(name, {}), **added}
            options["patches_replace"] = {**replaces, name: merged}
    return {**model_options, "transformer_options": options}
