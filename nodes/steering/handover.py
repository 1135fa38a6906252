"""What a chain's solver saw last at each step, kept for the first run beside the chain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rival_core.chain.chain import Chain, ModelCard
from ...rival_core.chain.features import Place, Stored, choose_place, pack_tokens
from ...rival_core.errors import RivalError
from ...rival_core.inversion.fixed_point import Solver
from .. import host
from ..schema import notify
from .recorder import Recorder

NODE = "RIVAL Invert"

# The residual up to which a solver's last iterate stands for the chain's latent: the tolerance
# that RIVAL Invert has by default, whatever it is set to.
SOLVED = 1e-4


class Handover:
    """Watches an inversion (host.invert), and hands over what it saw to the chain made of it.

    A step solved to a residual r was last evaluated within r of the latent that the chain has
    there. So what self-attention read in that call is, to within r, what a call of the exemplar
    would give, and the first run beside the chain needs none. A scheme's calls at the chain's own
    latents are that exactly. Cost: no model call; memory as `features` takes it in RIVAL Patch
    Model.
    """

    def __init__(self, model: Any, card: ModelCard, features: str, steps: int, prompts: tuple):
        self.model, self.prompts = model, prompts
        self.features = features
        self.layers = card.every_layer
        self.steps = steps
        self.x: Tensor | None = None  # like every iterate
        self.recorder: Recorder | None = None  # none while other nodes' patches act
        self.others: str | None = None
        self.device: torch.device | None = None
        self.rows: dict[Place, Stored] = {}
        self.slopes: dict[int, Tensor] = {}  # that a scheme's steps do not simply follow

    def begin(self, conds: dict, x: Tensor, model_options: dict) -> dict:
        """The options to evaluate with. conds: the run's own, by role; x: like every iterate."""
        self.others = host.others_acting(self.model, model_options, *self.prompts)
        if self.others is not None:
            return model_options
        self.x, self.recorder = x, Recorder(host.row_names(conds), self.layers)
        return host.port_of(self.model).recording(model_options, self.recorder)

    def solved(self, place: int, residual: Tensor, slope: Tensor | None = None) -> None:
        """Keeps what the last evaluation saw, if it was near enough.

        slope: what it predicted, where that is not the chain's own (Chain.slope).
        """
        if self.recorder is None or float(residual) > SOLVED:
            return
        seen = self.recorder.tokens.items()
        rows = {row: pack_tokens(tokens, self.features) for row, tokens in seen if tokens}
        if self.device is None:
            size = self.steps * sum(stored.nbytes for stored in rows.values())
            room = host.room_for_features(self.model, self.x)
            self.device = choose_place(size, room, self.features, "a smaller photo")
        for row, stored in rows.items():
            self.rows[place, row] = stored.kept_on(self.device)
        if slope is not None:
            self.slopes[place] = slope

    def hand_over(self, chain: Chain) -> list[str]:
        """Gives the chain all of it; returns what there is to say on the node."""
        if self.others is not None:
            return notify(NODE, [
                f"features is {self.features!r}, but what other nodes do to the model may change "
                f"({self.others}): nothing was kept"
            ])  # fmt: skip
        chain.features.claim(self.features, host.weights_key(self.model))
        for (place, row), stored in self.rows.items():
            # Under guidance the slope is the guided prediction, which is not the exemplar's own.
            if row == "positive" and chain.cfg == 1.0:
                slope = self.slopes[place] if place in self.slopes else chain.slope(place)
                stored = stored._replace(eps=slope.to(self.device))
            chain.features.rows[place, row] = stored
        places, size = {place for place, _ in self.rows}, chain.features.nbytes / 1e6
        return [f"features of {len(places)} of {chain.steps} steps are kept, {size:.0f} MB"]


def solver_sees(features: str, solver: str) -> None:
    """RivalError unless such a solver can hand such features over."""
    if features != "live" and not Solver(solver).sees_latents:
        raise RivalError(
            f"features is {features!r}, and the solver {solver} never sees the latents that "
            "sampling needs: choose the solver anderson, or features live"
        )

