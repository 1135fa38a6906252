"""A guided prediction: whose prompt its rows have, and what it is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ...rival_core.chain.chain import Chain
from .. import host
from .remarks import Remarks

# Under these names guiders keep the prompt that guidance leads away from; core's Perp-Neg has two.
UNCONDITIONAL = ("empty_negative_prompt", "negative")


class Prompts:
    """What a run's guider calls each prompt, and which of the photo's rows its rows read."""

    def __init__(self, guider: Any, chains: Iterable[Chain], remarks: Remarks):
        conds = getattr(guider, "conds", {})
        self.roles, self.names = host.row_roles(conds), host.row_names(conds)
        self.chains = [chain for chain in chains if chain.has_two_rows]
        self.remarks = remarks

    def roles_of(self, conds: Sequence) -> dict[Any, str]:
        """Of every conditioning entry so far, by uuid; conds: of a call that is to be made."""
        for place, entries in enumerate(conds):
            for entry in entries or []:
                if entry["uuid"] not in self.roles:
                    self.roles[entry["uuid"]] = self.find(entry, place, len(conds))
        return self.roles

    def find(self, entry: dict, place: int, of: int) -> str:
        """Of an entry under a name of the guider's own: by its text, else by its place in a pair.

        The host's own guidance asks for a pair: the conditional prediction, the unconditional.
        """
        for chain in self.chains:
            if host.has_text(entry, chain.negative):
                return "negative"
            if host.has_text(entry, chain.positive):
                return "positive"
        if self.chains and of != 2:
            self.remarks.of_unknown_role(self.names.get(entry["uuid"]))
        return "negative" if of == 2 and place == 1 else "positive"


class Prediction:
    """What one guided prediction is made from, as far as the guider's calls tell."""

    def __init__(self, prompts: Prompts, x: Tensor):
        self.prompts = prompts
        self.x = x  # all of it, where the calls are of parts
        self.made: dict[Any, tuple[str, Tensor]] = {}  # by the guider's names: role, denoised

    def saw(self, conds: Sequence, denoised: Sequence[Tensor]) -> None:
        """Keeps the first answer to each prompt: later calls are of a perturbed model."""
        for entries, x in zip(conds, denoised):
            if entries and x.shape == self.x.shape:
                uuid = entries[0]["uuid"]
                name = self.prompts.names.get(uuid, uuid)
                self.made.setdefault(name, (self.prompts.roles.get(uuid, "positive"), x))

    def unguided(self) -> tuple[Tensor, Tensor] | None:
        """The conditional and the unconditional prediction; None if one of them was not made."""
        cond = self.first("positive")
        named = (self.made[name][1] for name in UNCONDITIONAL if name in self.made)
        uncond = next(named, None)
        uncond = self.first("negative") if uncond is None else uncond
        return None if cond is None or uncond is None else (cond, uncond)

    def first(self, role: str) -> Tensor | None:
        return next((x for made, x in self.made.values() if made == role), None)
