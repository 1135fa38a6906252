"""What a node's inputs alone make impossible: refused when queued, or, of links, when it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..rival_core.chain.chain import Chain
from ..rival_core.errors import RivalError, shown
from ..rival_core.values import choice, flag, number, text, whole_number
from .schema import named

Rule = Callable[..., Any]
LINKED = object()  # stands for what a link will bring

# What a link of any type must not bring another thing for.
TYPES = {"RIVAL_CHAIN": Chain, "LATENT": dict, "SIGMAS": Tensor, "MASK": Tensor, "IMAGE": Tensor}

# ComfyUI itself checks whole numbers, flags and texts when a prompt is queued, and shows which one
# is wrong. It lets NaN pass, and on older versions any word.
CHECKED_WHEN_QUEUED = (io.Float.Input, io.Combo.Input)


def checked(*rules: Rule) -> Callable[[type], type]:
    """A decorator of nodes, which refuses values as soon as they are known.

    Each widget's value has its type, and is in its range or list; then the rules are asked. When
    queued, a linked widget's value is not known, and is checked when the node runs.

    rules: functions that raise RivalError, their parameters named as inputs of the node. A rule
    waits for all its widgets' values; of other inputs it learns whether they are None
    (unconnected): until the node runs, LINKED stands for the rest.
    """

    def decorate(node: type) -> type:
        asked = {name for rule in rules for name in inspect.signature(rule).parameters}
        asked |= {i.id for i in node.define_schema().inputs if isinstance(i, CHECKED_WHEN_QUEUED)}
        node.validate_inputs = classmethod(when_queued(rules, asked))
        node.execute = classmethod(when_run(rules, node.execute.__func__))
        return node

    return decorate


def when_queued(rules: Iterable[Rule], asked: Iterable[str]) -> Callable[..., bool | str]:
    """A validate_inputs for the inputs `asked`: ComfyUI leaves to it what its signature names.

    It is given None for a linked input, and nothing for one that is not connected.
    """

    def validate_inputs(cls, **given) -> bool | str:
        widgets = widgets_of(cls)
        known = {name: value for name, value in given.items() if value is not None}
        links = dict.fromkeys(given.keys() - known.keys() - widgets.keys(), LINKED)
        return refusal(name_of(cls), check_inputs, widgets, rules, known | links)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("cls", *sorted(asked))]
    validate_inputs.__signature__ = inspect.Signature(parameters)
    return validate_inputs


def when_run(rules: Iterable[Rule], execute: Callable) -> Callable:
    """The `execute` of a node, its widgets' values checked and of their own types."""
    signature = inspect.signature(execute)

    @wraps(execute)
    def run(cls, *args, **kwargs):
        given = signature.bind(cls, *args, **kwargs)
        given.apply_defaults()
        with named(name_of(cls)):
            given.arguments.update(check_inputs(widgets_of(cls), rules, given.arguments))
            check_links(cls, given.arguments)
        return execute(*given.args, **given.kwargs)

    return run


def check_links(node: type, given: Mapping[str, Any]) -> None:
    """RivalError for what is no value of its input's type; an optional one may be None."""
    for i in (i for i in node.define_schema().inputs if not isinstance(i, io.WidgetInput)):
        value = given[i.id]
        fits = i.optional if value is None else isinstance(value, TYPES.get(i.io_type, object))
        if not fits:
            raise RivalError(f"{i.id} is {shown(value)}: connect a {i.io_type}")


def name_of(node: type) -> str:
    return node.define_schema().display_name


def widgets_of(node: type) -> dict[str, io.Input]:
    return {i.id: i for i in node.define_schema().inputs if isinstance(i, io.WidgetInput)}


def check_inputs(
    widgets: Mapping[str, io.Input], rules: Iterable[Rule], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of those widgets that are given, or RivalError for what no rule allows."""
    values = {name: value_of(widget, given[name]) for name, widget in widgets.items()
              if name in given}
    for rule in rules:
        names = inspect.signature(rule).parameters
        if all(name in values for name in names if name in widgets):
            rule(**{name: values.get(name, given.get(name)) for name in names})
    return values


def value_of(widget: io.Input, value: Any) -> Any:
    """A value of the widget's own type, or RivalError if the widget could not hold it."""
    if isinstance(widget, io.Combo.Input):
        return choice(widget.id, value, widget.options)
    if isinstance(widget, io.Int.Input):
        return whole_number(widget.id, value, widget.min, widget.max)
    if isinstance(widget, io.Float.Input):
        return number(widget.id, value, widget.min, widget.max)
    if isinstance(widget, io.Boolean.Input):
        return flag(widget.id, value)
    return text(widget.id, value)


def refusal(node: str, check: Callable[..., Any], *args: Any) -> bool | str:
    """True, or the sentence in which a check refuses: what `validate_inputs` returns."""
    try:
        with named(node):
            check(*args)
    except RivalError as error:
        return str(error)
    return True
