"""Chains of a tiny model, and runs beside them whose features are kept."""

from __future__ import annotations

import graph
import spies
from composing import model_of, prompt

STEPS = 5


def negative() -> list:
    return prompt("sd15", 2)


def prompts() -> tuple[list, list]:
    """What is sampled with."""
    return prompt("sd15", 3), negative()


def invert(seed: int = 4, **inputs):
    """A chain of STEPS steps."""
    import tiny

    photo = tiny.latent(seed, size=8)
    return graph.invert(model_of("sd15"), photo, prompt("sd15", 1), steps=STEPS, **inputs)[0]


def run(chain, features: str = "cached", model=None, sampler: dict | None = None, **patch):
    """The samples, and the rows of every model call, the photo's apart."""
    model = model_of("sd15") if model is None else model
    patched = graph.patch(model, chain, features=features, **patch)
    with spies.photos_apart(), spies.model_rows(model) as calls:
        samples = graph.rival_sample(patched, chain, *prompts(), **(sampler or {}))
    return samples, [rows for rows, _ in calls]
