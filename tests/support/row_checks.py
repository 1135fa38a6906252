"""Every row that a patched MODEL runs, one by one, against the reference's."""

from __future__ import annotations

from collections.abc import Callable

import reference_rows
import torch
from composing import Seen, assert_close, photo, prompt
from reference_rows import Row

NEGATIVES = ("negative", "more")


def texts() -> dict[str, list]:
    """Every prompt of these tests; a row of the model is known by its text."""
    seeds = {"photo +": 1, "photo -": 2, "positive": 3, "negative": 4, "region": 5, "more": 6}
    return {name: prompt("sd15", seed) for name, seed in seeds.items()}


def name_of(row: Seen) -> str:
    """Which prompt a row of the model had."""
    return next(name for name, c in texts().items() if torch.equal(c[0][0], row.text))


def names_of(seen: list[Seen]) -> list[str]:
    return [name_of(row) for row in seen]


def place_of(row: Seen, chain) -> int:
    """The row's place in the chain."""
    return chain.sigmas.tolist().index(row.sigma)


def replaces(place: int, chain) -> bool:
    """In a chain of 5 steps, t = 801 replaces and all later ones read both."""
    return place == len(chain.sigmas) - 1


def assert_rows(
    model,
    seen: list[Seen],
    chain,
    model_for: Callable[[str, int], object] | None = None,
    arguments: Callable[[str, Seen], dict] | None = None,
) -> set:
    """Every row equals the reference's; returns the generated ones' (prompt, height, width).

    model_for: the model, by prompt and place in the chain, whose weights a row has.
    arguments: more of the model's arguments for a generated row, such as control.
    """
    shapes, photos = set(), {}
    for row in seen:
        place, name = place_of(row, chain), name_of(row)
        if place not in photos:
            own_model = model_for("photo +", place) if model_for else model
            photos[place] = photo_outputs(own_model, chain, place)
        tokens, own = photos[place]
        if name.startswith("photo"):
            assert_close(row.denoised, own["+-".index(name[-1])])
            continue
        its_model = model_for(name, place) if model_for else model
        more = arguments(name, row) if arguments else {}
        asked = generated_row(row, name, chain, place)
        (expected,) = reference_rows.denoise(its_model, [asked], row.sigma, tokens, **more)
        assert_close(row.denoised, expected)
        shapes.add((name, *row.x.shape[2:]))
    return shapes


def photo_outputs(model, chain, place) -> tuple[reference_rows.Tokens, list]:
    """(tokens, denoised) of the exemplar's rows."""
    tokens = {}
    rows = reference_rows.photo_rows([photo(chain, place)])
    return tokens, reference_rows.denoise(model, rows, float(chain.sigmas[place]), tokens)


def generated_row(row: Seen, name: str, chain, place: int) -> Row:
    role = "negative" if name in NEGATIVES else "positive"
    photos, replace = [photo(chain, place)], replaces(place, chain)
    read = reference_rows.reads(photos, role, "own", replace)
    return Row("own", row.x, texts()[name], read, role)
