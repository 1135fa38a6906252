"""The photos' rows in the generated rows' own model call: whether they may, and how they ride.

A call of their own reads all weights a second time. In one call they go first, each layer's
attention of theirs is plain, and what it reads is lent to the other rows in the same layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...rival_core.chain.chain import Chain
from ...rival_core.chain.tokens import Layer, Tokens
from ...rival_core.steering.step import Step
from .. import host
from .reader import Reader


class Rider(NamedTuple):
    """One photo's row: x [1, ...], and its conditioning entry, encoded."""

    chain: Chain
    row: str
    x: Tensor
    entry: dict


@dataclass
class Asked:
    """What decides whether photos' rows may ride in a call that a guider is about to make.

    due: of the step, see Step.due. entries: of the generated rows' conditioning.
    """

    run: Any
    step: Step
    due: Sequence[tuple[Chain, list[str], bool]]
    model: Any
    entries: Sequence[dict]
    x: Tensor
    options: dict

    @cached_property
    def riders(self) -> list[Rider]:
        found = []
        for chain, rows, _ in self.due:
            x = chain.at(self.step.sigma).to(self.x)
            conds = self.run.encoded(chain, self.model, x)
            found += [Rider(chain, row, x, conds[row][0]) for row in rows]
        return found

    @property
    def chains(self) -> list[Chain]:
        return [chain for chain, *_ in self.due]

    @property
    def is_patched(self) -> bool:
        prompts = (prompt for c in self.chains for prompt in (c.positive, c.negative))
        return host.is_patched(self.run.guider.model_patcher, self.options, *prompts)

    @property
    def ends_early(self) -> bool:
        """Whether a call of its own would end where nothing more of a photo is read."""
        return any(
            reads
            and not self.step.normalizes(chain)
            and chain.model.layers[-1][:2] not in self.step.layers(chain)
            for chain, _, reads in self.due
        )


# Why photos run in a call of their own. What the rows' call itself will be, `Ride` sees.
REASONS: dict[str, Callable[[Asked], bool]] = {
    "no photo is to be run": lambda a: not a.due,
    "memory was short, or a step makes several calls": lambda a: a.run.stays_apart,
    "a photo has run in this step": lambda a: bool(a.step.tokens),
    "features are kept": lambda a: any(id(chain) in a.run.shelves for chain in a.chains),
    "a photo has another size":
        lambda a: any(chain.end.shape[1:] != a.x.shape[1:] for chain in a.chains),
    "a call of its own ends early": lambda a: a.ends_early,
    "the model is compiled": lambda a: host.is_compiled(a.options),
    "a node's guidance may call again, with a model that it disturbs":
        lambda a: bool(host.guidance_of(a.options)),
    "another node is around the calls": lambda a: host.is_wrapped(a.options),
    "another node acts in the model": lambda a: a.is_patched,
    "a prompt has a control, an area, hooks or a part of the schedule":
        lambda a: host.is_partial([*a.entries, *(r.entry for r in a.riders)]),
}  # fmt: skip


def reason_against(asked: Asked) -> str | None:
    """Why the photos' rows may not ride; None if they may."""
    return next((reason for reason, holds in REASONS.items() if holds(asked)), None)


class Passing(Reader):
    """A Reader of photos whose rows are in the rows' own call: holds one layer's tokens."""

    def __init__(
        self, step: Step, roles: dict[Any, str], riders: dict[Any, Rider], unread: Callable
    ):
        super().__init__(Step(step.sigma, step.steering), roles, None, unread)
        self.riders = riders
        self.layer: Layer | None = None

    def layers(self) -> frozenset[Layer]:
        """All that are read."""
        found = (self.step.layers(rider.chain) for rider in self.riders.values())
        return frozenset().union(*found)

    def wants(self, layer: Layer) -> bool:
        return True

    def keep(
        self, layer: Layer, rows: Sequence, context: Tensor, value: Tensor, place: float = 0.0
    ) -> None:
        """What a layer's attention of the photos' rows reads, until the next layer's."""
        if layer != self.layer:
            self.release()
            self.layer = layer
        for i, uuid in enumerate(rows):
            rider, tokens = self.riders[uuid], Tokens(context[i : i + 1], value[i : i + 1], place)
            self.step.tokens[id(rider.chain), rider.row] = {layer: tokens}

    def release(self) -> None:
        self.step, self.layer = Step(self.step.sigma, self.step.steering), None

    def end_if_done(self) -> None:
        """The other rows go on."""


class Ride:
    """The innermost wrapper around a guider's model calls, which takes photos' rows along.

    apart: what else to do, for a call that is not all of the rows, or has no room: given the
    call's options, runs the photos by themselves and returns the options that lend them.
    """

    def __init__(self, asked: Asked, roles: dict[Any, str], apart: Callable[[dict], dict]):
        self.asked, self.roles, self.apart = asked, roles, apart

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                 transformer_options={}, **kwargs):
        model, options = executor.class_obj, host.entered(transformer_options)
        given = {"c_concat": c_concat, "c_crossattn": c_crossattn, **kwargs}
        given = {key: value for key, value in given.items() if value is not None}
        arguments = self.arguments(model, x, t, given, options)
        if arguments is not None:
            try:
                return self.together(model, x, t, arguments, options)
            except Exception as error:
                if not host.is_out_of_memory(error):
                    raise
            # Only here, where the error is gone, are its frames and their tensors.
            self.asked.run.out_of_memory()
        options = self.apart({"transformer_options": options})["transformer_options"]
        return model.apply_model(x, t, control=control, transformer_options=options, **given)

    def arguments(self, model, x: Tensor, t: Tensor, given: dict, options: dict) -> dict | None:
        """Of a call with the riders in it; None where it cannot be: see REASONS for the others."""
        asked = self.asked
        is_whole = len(options["uuids"]) == len(asked.entries)  # else the host has split the rows
        if not is_whole or not host.has_room(model, len(asked.riders) + len(x), x):
            return None
        inputs = [host.model_inputs(r.entry, r.x, t[:1]) for r in asked.riders]
        return host.joined(inputs, given)

    def together(self, model, x: Tensor, t: Tensor, arguments: dict, options: dict) -> Tensor:
        """The rows' denoised estimate; the photos' predicted noise is kept with the step."""
        run, step, riders = self.asked.run, self.asked.step, self.asked.riders
        by_uuid = {rider.entry["uuid"]: rider for rider in riders}
        reader = Passing(step, self.roles, by_uuid, run.remarks.of_unread_call)
        count, uuids = len(riders), [*reader.riders]
        if step.steering.readers:
            told = {"transformer_options": options}
            options = run.port.riding(told, reader, uuids, x.device)["transformer_options"]
        try:
            denoised = model.apply_model(
                torch.cat([*(rider.x for rider in riders), x]),
                torch.cat([t[:1].expand(count), t]),
                transformer_options=options,
                **arguments,
            )
        finally:
            reader.release()
        for rider, own in zip(riders, denoised.split(1)):
            step.keep(rider.chain, rider.x, {rider.row: own}, {})
        run.rode_at = step.sigma
        return denoised[count:]
