"""A chain as a file that another machine can sample from: safetensors, with a versioned header.

`rival_chain` in the file's metadata is JSON: {"version": 1, ...}, what a chain is but for its
tensors. Tensors: sigmas, latents, residuals, calls, preview (uint8 [H, W, 3]), and those of the
conditionings, numbered. LoRA hooks and whatever else is more than numbers cannot be saved.

Version 2 is that of chains by a scheme (inversion/schemes.py), which version 1 knew nothing of:
its solver also has coupling and seed, and there may be the tensors partner and noise.

A file may come from anyone. Reading takes memory of a small multiple of its size, and whatever is
not a sound chain is refused in one sentence: also numbers that are finite but that no model has,
which would end as NaN in an image. The bounds (MOST) are far outside what any model does.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import RivalError, shown
from ..inversion.fixed_point import Solver
from ..inversion.scaling import FlowScaling, Scaling
from ..inversion.schedule import check_sigmas
from . import conditioning as conditioning_file
from . import tensors as tensor_file
from .chain import Chain, ModelCard
from .conditioning import pack_conditioning, unpack_conditioning
from .tensors import check, dump, parse, read_layout, read_tensors
from .whole_file import advice

KEY, VERSION = "rival_chain", 2
MARK = b'{"__metadata__":{"rival_chain":'  # how a saved chain's header begins
SCALINGS = {"diffusion": Scaling, "flow": FlowScaling}
PREVIEW = 128  # pixels, of a preview's longer side
MOST = 1e6  # sigmas, cfg, and latents by their level: models have up to 4518, 30 and some 10
MOST_CALLS = 2**31  # of one step
SIGMA_DATA = (1e-3, 1e3)  # models have 0.5 and 1
NAME = re.compile(r"[A-Za-z0-9_. -]{0,64}")  # of what is shown: nothing that a page could act on
SCHEDULE = re.compile(r"[A-Za-z0-9_. +=,()\[\]-]{0,64}")  # other packs have "GITS[coeff=1.2]"
TRAJECTORY = ("sigmas", "latents", "residuals", "calls", "partner", "noise")
SINCE_2 = ("coupling", "seed")  # of a solver
FIELDS = {"version", "schedule", "solver", "cfg", "scaling", "model", "weights", "positive",
          "negative"}  # fmt: skip


class Taken(RivalError):
    """There is a file of that name."""


class Saved(NamedTuple):
    """What a file holds."""

    chain: Chain
    preview: Tensor | None  # uint8 [H, W, 3]


def save(chain: Chain, path: Path, preview: Tensor | None = None) -> None:
    """Writes a new file, which is there whole or not at all; none is ever overwritten.

    preview: uint8 [H, W, 3], see `thumbnail`. RivalError if something of the chain cannot be
    saved, or the file not be written; Taken if there is one of that name. No model calls.
    """
    given = {**{name: getattr(chain, name) for name in TRAJECTORY}, "preview": preview}
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    kind = {made: kind for kind, made in SCALINGS.items()}[type(chain.scaling)]
    description = {
        "version": version_of(chain.solver),
        "schedule": as_schedule(chain.schedule),
        "solver": pack_solver(chain.solver),
        "cfg": chain.cfg,
        "scaling": {"kind": kind, **asdict(chain.scaling)},
        "model": asdict(chain.model),
        "weights": chain.weights,
        "positive": pack_conditioning("positive", chain.positive, tensors),
        "negative": pack_conditioning("negative", chain.negative, tensors),
    }
    try:
        check_numbers(chain)
        tensor_file.write(path, tensors, {KEY: dump(description)})
    except FileExistsError as error:
        raise Taken(f"{shown(path.name)} exists already: choose another name") from error
    except OSError as error:
        said = advice(error, path.parent)
        raise RivalError(f"{shown(path.name)} cannot be written {said}") from error
    except RivalError as error:
        raise RivalError(f"{shown(path.name)} {error}") from error


def load(path: Path, device: torch.device | str = "cpu") -> Saved:
    """The chain in a file, its latents and conditionings on the device; RivalError if none."""
    try:
        with open(path, "rb") as file:
            layout = read_layout(file)
            description = described(layout.text)
            chain, preview = build(description, read_tensors(file, layout))
    except OSError as error:
        raise RivalError(
            f"{shown(path.name)} cannot be read ({error.strerror}): choose another file"
        ) from error
    except RivalError as error:
        raise RivalError(f"{shown(path.name)} {error}") from error
    return Saved(moved(chain, device), preview)


def moved(chain: Chain, device: torch.device | str) -> Chain:
    """The chain with its latents, what is beside them, and conditionings on the device."""
    prompts = {name: conditioning_file.moved(getattr(chain, name), device)
               for name in ("positive", "negative")}  # fmt: skip
    beside = {name: tensor.to(device) for name, tensor in chain.beside.items()}
    return replace(chain, latents=chain.latents.to(device), **beside, **prompts)


def is_chain(path: Path) -> bool:
    """Whether a file begins as `save` begins one; a glance, for lists of files."""
    try:
        with open(path, "rb") as file:
            return file.read(8 + len(MARK))[8:] == MARK
    except OSError:
        return False


def thumbnail(image: Tensor) -> Tensor:
    """A picture [H, W, 3] in 0 to 1 as a preview: uint8, at most PREVIEW pixels a side."""
    share = min(1.0, PREVIEW / max(image.shape[:2]))
    size = [max(1, round(side * share)) for side in image.shape[:2]]
    image = image.detach().cpu().float().movedim(-1, 0)[None]
    small = torch.nn.functional.interpolate(image, size=size, mode="area")
    return small[0].movedim(0, -1).nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)


def described(text: dict[str, str]) -> dict[str, Any]:
    """What the header says of a chain, if this version can know."""
    if KEY not in text:
        raise RivalError("holds no chain: choose a file from RIVAL Save Chain")
    description = parse(text[KEY])
    check(isinstance(description, dict))
    version = description.get("version")
    check(type(version) is int and version >= 1)
    if version > VERSION:
        raise RivalError(
            f"was saved by a newer version of this pack (format {version}, this one reads "
            f"{VERSION}): update the pack"
        )
    check(set(description) == FIELDS)
    return description


def build(description: dict[str, Any], tensors: dict[str, Tensor]) -> Saved:
    """The chain, every field checked; `tensors` is used up."""
    positive, negative = (
        unpack_conditioning(description[name], tensors) for name in ("positive", "negative")
    )
    check(positive is not None)
    preview = tensors.pop("preview", None)
    check(preview is None or is_preview(preview))
    trajectory = unpack_trajectory(tensors)
    check(not tensors)  # nothing that is not part of a chain
    solver = unpack_solver(description["solver"], description["version"])
    chain = Chain(
        **trajectory,
        scaling=unpack_scaling(description["scaling"]),
        model=unpack_card(description["model"]),
        positive=positive,
        negative=negative,
        cfg=number(description["cfg"]),
        solver=solver,
        schedule=name(description["schedule"], SCHEDULE),
        weights=label(description["weights"]),
    )
    check(chain.beside.keys() == {*solver.leaves})
    check_numbers(chain)
    return Saved(chain, preview)


def check_numbers(chain: Chain) -> None:
    """Raises unless every number is one that a model, or its inversion, can have."""
    levels = [chain.scaling.level(sigma) for sigma in chain.sigmas.tolist()]
    kept = {"latents": chain.latents, **chain.beside}
    scales = {**dict.fromkeys(kept, torch.tensor(levels)), "noise": torch.ones(chain.steps)}
    largest = [t.abs().flatten(1).amax(dim=1).cpu() / scales[name] for name, t in kept.items()]
    solved = torch.zeros(1) if chain.residuals is None else chain.residuals
    calls = torch.zeros(1) if chain.calls is None else chain.calls
    sound = {
        "noise levels": max(chain.top, chain.scaling.sigma_max) <= MOST,
        "latents": bool((torch.cat(largest) <= MOST).all()),
        "a guidance": abs(chain.cfg) <= MOST,
        "residuals": bool(torch.isfinite(solved).all()),
        "model calls": bool((calls <= MOST_CALLS).all()),
    }
    for what, is_sound in sound.items():
        if not is_sound:
            raise RivalError(f"has {what} beyond what any model has: invert the image anew")


def unpack_trajectory(tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The tensors of a chain, by its own names for them."""
    found = {name: tensors.pop(name, None) for name in TRAJECTORY}
    sigmas, latents, residuals, calls, partner, noise = found.values()
    check(is_of(sigmas, torch.float32, 1) and is_of(latents, torch.float32, 4, 5))
    try:
        check_sigmas(sigmas.flip(0))
    except RivalError as error:
        raise RivalError(tensor_file.DAMAGED) from error
    check(len(latents) == len(sigmas) and min(latents.shape[-2:]) >= 2)
    if latents.shape[2:-2].numel() != 1:
        raise RivalError("holds a video, which this version cannot read: update the pack")
    check(bool(torch.isfinite(latents).all()))
    for values, dtype in ((residuals, torch.float32), (calls, torch.int64)):
        if values is not None:
            check(is_of(values, dtype, 1) and len(values) == len(sigmas) - 1)
            check(bool((values >= 0).all()))
    check(residuals is None or calls is not None)
    for values, count in ((partner, len(sigmas)), (noise, len(sigmas) - 1)):
        if values is not None:
            check(values.dtype == torch.float32 and values.shape == (count, *latents.shape[1:]))
            check(bool(torch.isfinite(values).all()))
    return found


def unpack_scaling(packed: Any) -> Scaling:
    check(isinstance(packed, dict) and set(packed) == {"kind", "sigma_max", "sigma_data"})
    kind = packed["kind"]
    check(isinstance(kind, str) and kind in SCALINGS)
    numbers = {name: number(packed[name]) for name in ("sigma_max", "sigma_data")}
    check(numbers["sigma_max"] > 0 and SIGMA_DATA[0] <= numbers["sigma_data"] <= SIGMA_DATA[1])
    return SCALINGS[kind](**numbers)


def version_of(solver: Solver) -> int:
    return 1 if solver.scheme is None else 2


def pack_solver(solver: Solver) -> dict[str, Any]:
    unknown = SINCE_2 if version_of(solver) == 1 else ()  # and of no effect
    return {name: value for name, value in asdict(solver).items() if name not in unknown}


def unpack_solver(packed: Any, version: int) -> Solver:
    check(isinstance(packed, dict))
    names = {*asdict(Solver())} - ({*SINCE_2} if version == 1 else set())
    real = {"tolerance", "mixing", "coupling"} & names
    check(set(packed) == names and all(type(packed[n]) is int for n in names - real - {"name"}))
    try:
        solver = Solver(**{**packed, **{name: number(packed[name]) for name in real}})
    except RivalError as error:
        raise RivalError(tensor_file.DAMAGED) from error
    # uni_inv was of version 1 while it took a call less.
    check(version_of(solver) == version or solver.name == "uni_inv")
    return solver


def unpack_card(packed: Any) -> ModelCard:
    check(isinstance(packed, dict) and set(packed) == {"family", "latent_format", "layers"})
    check(isinstance(packed["layers"], list))
    layers = tuple(unpack_layer(layer) for layer in packed["layers"])
    return ModelCard(name(packed["family"]), name(packed["latent_format"]), layers)


def unpack_layer(packed: Any) -> tuple[tuple[str, int], int, int]:
    check(isinstance(packed, list) and len(packed) == 3)
    block, depth, width = packed
    check(isinstance(block, list) and len(block) == 2)
    check(all(type(n) is int for n in (block[1], depth, width)))
    return (name(block[0]), block[1]), depth, width


def is_of(tensor: Tensor | None, dtype: torch.dtype, *dimensions: int) -> bool:
    return tensor is not None and tensor.dtype == dtype and tensor.ndim in dimensions


def is_preview(tensor: Tensor) -> bool:
    small = max(tensor.shape, default=0) <= PREVIEW
    return is_of(tensor, torch.uint8, 3) and tensor.shape[2] == 3 and small


def number(value: Any) -> float:
    check(type(value) in (int, float) and math.isfinite(value))
    return float(value)


def name(value: Any, allowed: re.Pattern = NAME) -> str:
    """A short word that is fit to be shown anywhere."""
    check(isinstance(value, str) and allowed.fullmatch(value) is not None)
    return value


def as_schedule(text: str) -> str:
    """A schedule's name as a file may hold it: only shown, so that another letter is no loss."""
    return "".join(c if SCHEDULE.fullmatch(c) else "_" for c in text)[:64]


def label(value: Any) -> str:
    """A line of text that is compared and never shown."""
    check(isinstance(value, str) and len(value) <= 4096 and value.isprintable())
    return value
