"""What a run would be if a photo's own row cost less: the engine's steps, replaced for that run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import variations
from comfyui_rival.rival_core.chain.features import pack_tokens, unpack_tokens
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.steering.step import Steering, Step


def at_every_second_step(make: variations.Make) -> variations.Make:
    """The photo's row runs at every second step only; between, it lends what it lent before."""

    def made(*given):
        with steps(Kept()):
            return make(*given)

    return made


def in_int8(make: variations.Make) -> variations.Make:
    """The photo's tokens as features `cached_int8` keeps them."""

    def made(*given):
        with steps(Int8Step):
            return make(*given)

    return made


@contextlib.contextmanager
def steps(make_step: Callable[[float, Steering], Step]) -> Iterator[None]:
    """The engine takes its steps from here."""
    own, engine.Step = engine.Step, make_step
    try:
        yield
    finally:
        engine.Step = own


class Kept:
    """Makes steps, every second of which has all that the one before it saw of the photo."""

    def __init__(self):
        self.before: Step | None = None

    def __call__(self, sigma: float, steering: Steering) -> Step:
        step = Step(sigma, steering)
        if self.before is None:
            self.before = step
        else:
            step.tokens, step.eps, self.before = self.before.tokens, self.before.eps, None
        return step


class Int8Step(Step):
    def keep(self, chain, x, denoised, tokens) -> None:
        rounded = {row: unpack_tokens(pack_tokens(seen, "cached_int8"))
                   for row, seen in tokens.items()}
        super().keep(chain, x, denoised, rounded)
