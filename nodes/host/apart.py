"""The photo's own model calls, kept apart from what other nodes wrap around the image's.

A wrapper may remember other calls, skip some, or cut the latent into tiles, and nothing tells
whether it does. The photo's calls are of other latents than the image's, so they go without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...rival_core.errors import RivalError

AROUND_THE_CALL = (
    WrappersMP.PREDICT_NOISE,
    WrappersMP.CALC_COND_BATCH,
    WrappersMP.APPLY_MODEL,
    WrappersMP.DIFFUSION_MODEL,
)
FUNCTIONS = ("model_function_wrapper", "sampler_calc_cond_batch_function")
WINDOWS = "context_handler"
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
COMPILED, OURS = "torch.compile", "rival"
HARMLESS = {COMPILED, OURS}
# Patches by which a node brings an image along that belongs to the new one: a control, a reference.
OF_IMAGES = {"double_block", "single_block", "noise_refiner", "post_input"}
# Core's, which need no remark: that the photo goes without them is what everybody expects.
EXPECTED = {"easycache", "lazycache"}


def kept_out(model_options: dict, wrappers: dict | None = None) -> list[str]:
    """What other nodes brought that the photo's calls do without, by name; see `around`."""
    images = map(name_of, of_images(model_options["transformer_options"]))
    return sorted({*around(model_options, wrappers), *images})


def around(model_options: dict, wrappers: dict | None = None) -> list[str]:
    """What other nodes wrap around calls, by name.

    wrappers: of a MODEL that is not sampling yet; a run's are in its options.
    """
    found = [
        name_of(function)
        for keyed in (wrappers or {}, model_options["transformer_options"].get("wrappers", {}))
        for kind, key in foreign(keyed)
        if key not in EXPECTED
        for function in keyed[kind][key]
    ]
    found += [name_of(model_options[key]) for key in FUNCTIONS if model_options.get(key)]
    return sorted(set(found))


def of_images(transformer_options: dict) -> list[Any]:
    """The patches inside blocks where one of them brings an image: others of its node need it."""
    patches = transformer_options.get("patches", {})
    if not OF_IMAGES & patches.keys():
        return []
    return [patch for kind in patches.values() for patch in kind]


def guidance_of(model_options: dict) -> list[str]:
    """What other nodes do to guidance, by name."""
    found = (model_options.get(key) or [] for key in GUIDANCE)
    found = [f for one in found for f in (one if isinstance(one, list) else [one])]
    return sorted({name_of(function) for function in found})


def foreign(wrappers: dict[str, dict]) -> Iterator[tuple[str, Any]]:
    """(kind, key) of the wrappers around a call that are another node's."""
    for kind in AROUND_THE_CALL:
        yield from ((kind, key) for key in wrappers.get(kind, {}) if key not in HARMLESS)


def name_of(function: Any) -> str:
    """As the node's author named it: functions are defined inside a node's method."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return named.__qualname__.replace(".<locals>", "")


def without(wrappers: dict[str, dict]) -> dict[str, dict]:
    """The wrappers less those that any of a key around a call brought along."""
    keys = {key for _, key in foreign(wrappers)}
    return {
        kind: {key: kept for key, kept in keyed.items() if key not in keys}
        for kind, keyed in wrappers.items()
    }


def unwrapped(model_options: dict) -> dict:
    """The options of a call that no other node's wrapper is around."""
    options = {k: v for k, v in model_options.items() if k not in (*FUNCTIONS, WINDOWS)}
    inner = options["transformer_options"]
    inner = {**inner, "wrappers": without(inner.get("wrappers", {}))}
    return {**options, "transformer_options": inner}


def apart(model_options: dict) -> dict:
    """The options of a call that no other node's wrapper is around, nor an image in its blocks."""
    options = unwrapped(model_options)
    inner = options["transformer_options"]
    if of_images(inner):
        inner["patches"] = {}
    return options


def set_alone(model: ModelPatcher) -> ModelPatcher:
    """A clone none of whose calls goes through another node's wrapper, in tiles or in windows."""
    model = model.clone()
    model.model_options = unwrapped(model.model_options)
    model.wrappers = without(model.wrappers)
    for keyed in model.wrappers.values():  # those of core's Context Windows insist on windows
        for key in [k for k in keyed if str(k).startswith("ContextWindows_")]:
            del keyed[key]
    return model


def set_apart(model: ModelPatcher, cfg: float = 1.0) -> ModelPatcher:
    """A clone for the photo's own calls: set alone, and without an image in its blocks.

    At a cfg of 1, where the photo is seen unguided, other nodes' guidance does not act either:
    some of it counts on an unconditional prediction.
    """
    model = set_alone(model)
    model.model_options = apart(model.model_options)
    if cfg == 1.0:
        dropped = {*GUIDANCE, "disable_cfg1_optimization"}
        options = {k: v for k, v in model.model_options.items() if k not in dropped}
        model.model_options = options
    return model


@contextmanager
def explained(names: list[str]) -> Iterator[None]:
    """Says of a model call that fails inside what it went without, which may be why."""
    try:
        yield
    except RuntimeError as error:
        if not names or is_out_of_memory(error):
            raise
        reason = f"{error}".partition("\n")[0][:120]
        raise RivalError(
            f"the photo's own model call fails ({reason}) without {', '.join(names)}, which may "
            "remember other calls, cut them into tiles or bring an image: remove that from the "
            "model"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how a device says that its memory is full."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):  # newer hosts know more forms of it
        return management.is_oom(error)
    return isinstance(error, management.OOM_EXCEPTION)
