"""An accelerator that is none: tensors "on" it lie in RAM, but PyTorch keeps the two apart.

    DEVICE = pretend_device.register()
    torch.ones(2, device=DEVICE) + torch.ones(2)  # RuntimeError: ... two devices

What runs on it gives the CPU's results. So code that mixes devices is found on a machine that has
one only. PyTorch's PrivateUse1 is the device; its kernels are one Python function that calls the
CPU's. Slow: some 100 microseconds an operation. There are no streams, generators or pinned memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

NAME = "pretend"
LIBRARIES: list[torch.library.Library] = []  # what they register ends with them
MIXING = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}  # that is what these are for
AS_STRIDED, META = torch.ops.aten.as_strided.default, torch._C.DispatchKeySet("Meta")
CONVOLUTION = torch.ops.aten.convolution.default


@cache
def register() -> torch.device:
    """The device. AttributeError where this PyTorch takes no backends written in Python."""
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        """Nothing else finds the device: torch.random.fork_rng would ask each for its state."""

        def is_available(self) -> bool:
            return False

        def device_count(self) -> int:
            return 0

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(run, "PrivateUse1")
    # The one operation that PyTorch expects such devices to bring along.
    aten.impl("convolution_overrideable", lambda *args: run(CONVOLUTION, *args), "PrivateUse1")
    LIBRARIES.extend((every, aten))
    return torch.device(NAME, 0)


def run(operation: Any, *args, **kwargs):
    """The operation on what the tensors stand for; what it gives is on the device again."""
    name = operation._schema.name
    if name == "aten::_fused_sdp_choice":
        return 0  # attention as plain mathematics
    wrappers: dict[int, Tensor] = {}
    inner = [unwrap(x, name, wrappers) for x in args]
    inner_kwargs = {key: unwrap(x, name, wrappers) for key, x in kwargs.items()}
    if name == "aten::_local_scalar_dense":
        return operation(*inner)
    if name == "aten::_copy_from":
        inner[1].copy_(inner[0])
        return args[1]
    if name == "aten::as_strided":
        x, size, strides, *offset = inner
        # PyTorch counts from where the tensor begins, which in RAM may be inside another.
        result = x.as_strided(size, strides, x.storage_offset() + (offset or [0])[0])
    else:
        result = operation(*inner, **inner_kwargs)
    to = kwargs.get("device")
    if name == "aten::_to_copy" and to is not None and to.type != NAME:
        return result
    return rewrap(result, wrappers)


def unwrap(x: Any, name: str, wrappers: dict[int, Tensor]) -> Any:
    if isinstance(x, (list, tuple)):
        return [unwrap(part, name, wrappers) for part in x]
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    if not isinstance(x, Tensor):
        return x
    if x.device.type == NAME:
        held = x.untyped_storage().held
        if held.shape != x.shape or held.stride() != x.stride() or x.storage_offset():
            # A view that PyTorch took of the wrapper alone.
            start = held.storage_offset() + x.storage_offset()
            held = held.as_strided(x.shape, x.stride(), start)
        wrappers[id(held)] = x
        return held
    is_index = "index" in name and x.dtype in (torch.long, torch.bool)  # GPUs take the CPU's
    if x.dim() > 0 and name not in MIXING and not is_index:
        raise RuntimeError(f"{name} was given tensors on {NAME} and on {x.device}")
    return x


def wrap(x: Tensor) -> Tensor:
    """A tensor on the device that stands for x, of its size and strides."""
    empty = torch._C._acc.create_empty_tensor(tuple(x.shape), x.dtype)
    empty.untyped_storage().held = x
    if x.is_contiguous():
        return empty
    return AS_STRIDED.redispatch(META, empty, x.shape, x.stride(), 0)


def rewrap(x: Any, wrappers: dict[int, Tensor]) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(rewrap(part, wrappers) for part in x)
    if not isinstance(x, Tensor):
        return x
    known = wrappers.get(id(x))
    if known is not None and known.shape == x.shape:
        return known
    wrapper = wrap(x)
    if known is None:
        return wrapper
    known.data = wrapper  # the operation gave its output another size
    return known
