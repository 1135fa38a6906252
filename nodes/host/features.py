"""What storing a model's features takes: what they depend on, and where there is room."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rival_core.steering.exemplar import Exemplar
from .apart import COMPILED
from .kernels import OVERRIDE
from .loras import hooks_of
from .models import port_of

RAM_KEPT_FREE = 1 << 30


def weights_key(model: ModelPatcher) -> tuple:
    """Equal for models that answer equally, if nothing else acts on them.

    Holds no model: one that was freed equals none that comes after it.
    """
    sampling = weakref.ref(model.get_model_object("model_sampling"))
    base = model.model
    return model.patches_uuid, weakref.ref(base), sampling, compute_dtype(model)


def others_acting(model: ModelPatcher, model_options: dict, *prompts: Any) -> str | None:
    """What other nodes put on a model that the exemplar's call may depend on, or None.

    prompts: what the exemplar is seen with, as CONDITIONING or None.
    Some of it counts calls, draws numbers or looks at the whole schedule, so that what the model
    answered once need not be what it would answer now. Wrappers are kept out of that call.
    """
    options = model_options["transformer_options"]
    found = {
        "patches": [name for name, patches in options.get("patches", {}).items() if patches],
        "replaced": [name for name, by in options.get("patches_replace", {}).items() if by],
        "objects": [name for name in model.object_patches if name != "model_sampling"],
        "injections": list(model.injections),
        "prompts": ["hooks"] if any(map(hooks_of, prompts)) else [],
        "overrides": [OVERRIDE] if options.get(OVERRIDE) else [],
    }
    named = [f"{what}: {', '.join(map(str, names))}" for what, names in found.items() if names]
    return "; ".join(named) or None


def may_stop_early(model: ModelPatcher, model_options: dict, *prompts: Any) -> bool:
    """Whether nothing of another node would see an exemplar's call break off."""
    compiled = model_options["transformer_options"].get("wrappers", {}).get("apply_model", {})
    return COMPILED not in compiled and others_acting(model, model_options, *prompts) is None


def room_for_features(model: ModelPatcher, x: Tensor) -> list[tuple[torch.device, int]]:
    """(device, free bytes) for what outlives a guided step of the batch x, the fastest first."""
    step = int(model.model.memory_required([2 * len(x), *x.shape[1:]]))
    cpu = torch.device("cpu")
    ram = comfy.model_management.get_free_memory(cpu) - RAM_KEPT_FREE
    if x.device.type == "cpu":
        return [(cpu, ram - step)]
    # The host cannot take back what lies there between runs, so half is left to other models.
    here = comfy.model_management.get_free_memory(x.device) - step
    return [(x.device, here // 2), (cpu, ram)]


def with_lent(model: ModelPatcher, shape: Sequence[int], exemplars: Sequence[Exemplar]) -> list:
    """The shape of a batch of rows so many more that their memory holds what a step lends, too."""
    chains = {id(e.chain): e.chain for e in exemplars if e.acts}.values()
    if not chains:
        return list(shape)
    port, network = port_of(model), model.get_model_object("diffusion_model")
    sizes = [chain.grid for chain in chains for _ in range(1 + chain.has_two_rows)]
    numbers = sum(port.lent(network.get_submodule(port.find(network) or ""), s) for s in sizes)
    row = model.model.memory_required([2, *shape[1:]])  # guidance makes two of one
    size = numbers * torch.finfo(compute_dtype(model)).bits // 8
    return [shape[0] + (math.ceil(size / row) if size else 0), *shape[1:]]


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    return model.model.manual_cast_dtype or model.model.get_dtype()


def out_of_memory(sentence: str) -> Exception:
    """An error that the host, which answers it by unloading models, knows as such."""
    return comfy.model_management.OOM_EXCEPTION(sentence)


def free_unused() -> None:
    """Gives the device back what torch holds and nothing uses."""
    comfy.model_management.soft_empty_cache()
