"""One run's use of the features that a chain keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...rival_core.chain.chain import Chain
from ...rival_core.chain.features import (
    GB,
    Prefetch,
    Stored,
    choose_place,
    pack_tokens,
    unpack_tokens,
)
from ...rival_core.steering.exemplar import Exemplar, fewer_layers
from ...rival_core.steering.step import Step, steering
from .. import host
from ..schema import named

NODE = "RIVAL Patch Model"


class Shelf:
    """A chain's stored features as one run reads and fills them."""

    def __init__(self, chain: Chain, features: str, model: Any, exemplars: Sequence[Exemplar]):
        self.chain, self.prompts = chain, (chain.positive, chain.negative)
        self.features = features
        self.model = model
        self.exemplars = exemplars
        self.place: int | None = None  # of the current step in the chain; None: it runs live
        self.device: torch.device | None = None  # where this run stores, once that is settled
        self.prefetch: Prefetch | None = None
        self.told: set[str] = set()

    def recall(self, step: Step, rows: list[str], x: Tensor, options: dict) -> list[str]:
        """Gives the step what is stored for it; returns the rows that must still run."""
        self.place = self.find_place(step.sigma, options)
        if self.place is None:
            return rows
        if self.prefetch is None:
            self.prefetch = Prefetch(x.device)
        found = {row: stored for row in rows if (stored := self.find(self.place, row, step))}
        for row, stored in found.items():
            self.give(step, row, self.prefetch.take(stored))
        held, coming = self.chain.features.rows, [(self.place - 1, row) for row in found]
        self.prefetch.start(held[place] for place in coming if place in held)
        return [row for row in rows if row not in found]

    def keep(self, step: Step, rows: list[str], x: Tensor, options: dict) -> None:
        """Stores what the rows just gave; the step goes on with what later runs will read."""
        if self.place is None:
            return
        fresh = {row: self.packed(step, row) for row in rows}
        if self.device is None and step.layers(self.chain):
            size = sum(stored.nbytes for stored in fresh.values())
            size *= self.steps_left(step, rows, options)
            with named(NODE):
                room = host.room_for_features(self.model, x)
                advice = fewer_layers(self.chain.model)
                self.device = choose_place(size, room, self.features, advice)
            logging.info("%s: keeps %.1f GB on %s.", NODE, size / GB, self.device)
        for row, stored in fresh.items():
            self.give(step, row, stored)
            self.chain.features.rows[self.place, row] = stored.kept_on(self.device or x.device)

    def find_place(self, sigma: float, options: dict) -> int | None:
        """Where in the chain this step is, if what the model answers there may be kept."""
        if others := host.others_acting(self.model, options, *self.prompts):
            return self.tell(f"what other nodes do to the model may change ({others})")
        place = self.chain.place(sigma)
        if place is None:
            return self.tell("the sampler asks for noise levels that are not the chain's")
        self.chain.features.claim(self.features, host.weights_key(self.model))
        return place

    def find(self, place: int, row: str, step: Step) -> Stored | None:
        needs_eps = row == "positive" and step.normalizes(self.chain)
        return self.chain.features.find((place, row), step.layers(self.chain), needs_eps)

    def give(self, step: Step, row: str, stored: Stored) -> None:
        step.recall(self.chain, row, unpack_tokens(stored), stored.eps)

    def packed(self, step: Step, row: str) -> Stored:
        eps = step.eps.get(id(self.chain)) if row == "positive" else None
        tokens = step.tokens[id(self.chain), row]
        return pack_tokens(tokens, self.features)._replace(eps=eps)

    def steps_left(self, step: Step, rows: list[str], options: dict) -> int:
        """How many of this run's steps read the photo and have nothing stored yet."""
        run = options["transformer_options"].get("sample_sigmas", self.chain.falling_sigmas())
        timesteps = host.timesteps_of(self.model)
        places = set()
        for sigma in run[:-1].tolist():
            readers = steering(self.exemplars, timesteps.t(sigma), timesteps.slack).readers
            if any(e.chain is self.chain for e in readers):
                places.add(self.chain.place(sigma))
        places.discard(None)
        return sum(any(self.find(i, row, step) is None for row in rows) for i in places)

    def move_to_ram(self) -> None:
        """Makes room on the sampling device, now and for the rest of the run."""
        self.device, self.prefetch = torch.device("cpu"), None
        self.chain.features.move(self.device)

    def tell(self, reason: str) -> None:
        if reason not in self.told:
            self.told.add(reason)
            logging.warning(
                "%s: features is %r, but %s: those steps run live.", NODE, self.features, reason
            )


def shelves(exemplars: Sequence[Exemplar], model: Any) -> dict[int, Shelf]:
    """A shelf for every chain whose features are to be kept, by the chain's id."""
    kept = [e for e in exemplars if e.features != "live"]
    return {id(e.chain): Shelf(e.chain, e.features, model, exemplars) for e in kept}
