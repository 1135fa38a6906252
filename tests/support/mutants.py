"""A module with one mistake in it, beside the real one."""

from __future__ import annotations

import inspect
from types import ModuleType, SimpleNamespace


def mutant(module: ModuleType, right: str, wrong: str) -> SimpleNamespace:
    """What the module would define if it had `wrong` in place of `right`, which it has once."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} is there {source.count(right)} times"
    names = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(source.replace(right, wrong), f"{module.__file__} (mutant)", "exec"), names)  # noqa: S102
    return SimpleNamespace(**names)
