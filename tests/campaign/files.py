"""Chain files that somebody spoilt and signed anew: refused in one sentence, or they work.

What loads is patched, sampled, reconstructed and reported on tiny models. Everything that must
not happen is a fault: an error of another kind, a sentence of several lines, an image of NaN.
"""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import graph
import torch
from composing import remembered
from torch import Tensor

FAMILIES = ("sd15", "sd15", "sdxl", "sd15_inpaint", "sdxl_edm")
SCHEMES = {"sdxl": "edict", "sdxl_edm": "edit_friendly", "sd15_inpaint": "obelm"}
STEPS = 2
OWN = ("sigmas", "latents", "residuals", "calls", "partner", "noise", "preview")  # no prompt's
# Options that ComfyUI reads in some model's prompt, and some that nobody reads.
OPTIONS = ("pooled_output", "width", "height", "crop_w", "crop_h", "target_width", "target_height",
           "aesthetic_score", "start_percent", "end_percent", "clip_start_percent",
           "clip_end_percent", "timestep_start", "timestep_end", "strength", "mask_strength",
           "set_area_to_bounds", "area", "mask", "default", "prompt_type", "control",
           "control_apply_to_uncond", "gligen", "hooks", "model_conds", "additional_models",
           "unclip_conditioning", "unclip_noise_augment_merge", "noise_augmentation",
           "concat_latent_image", "concat_mask", "noise_concat", "denoise_mask", "latent_image",
           "cross_attn", "cross_attn_controlnet", "guidance", "attention_mask", "seed", "uuid",
           "reference_latents", "noise", "device", "self", "latent_shapes", "x", "")  # fmt: skip
WORDS = (None, True, False, 0, 1, -1, 2, 7, 2**31, 2**62, 2**63, 0.0, 0.5, 1.0, -2.5, 1e-300,
         1e30, 1e308, "", "x", "\n", "<b>x</b>", "flow", "ddim", "anderson", "diffusion", [],
         {}, [[]], {"dict": {}}, {"tuple": [1, 2]}, {"tensor": "latents"}, [1] * 9, "a" * 70)


class Opened(NamedTuple):
    """A chain file, taken apart."""

    description: dict
    tensors: dict[str, Tensor]


def run(count: int, seed: int) -> dict:
    """How many of `count` files had which outcome, and the faults; file n is that of seed + n."""
    outcomes, faults = Counter(), []
    with folders() as folder:
        for n in range(seed, seed + count):
            outcome = attempt(n, folder)
            if outcome.startswith("fault"):
                faults.append(f"files, seed {n}: {outcome}")
            else:
                outcomes[outcome] += 1
    return {**dict(sorted(outcomes.items())), "faults": faults}


def attempt(seed: int, folder: Path) -> str:
    """One file's outcome."""
    from comfyui_rival.nodes import RivalLoadChain

    rng = random.Random(seed)
    family = rng.choice(FAMILIES)
    opened = copy.deepcopy(sound(family))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((spoil_value, spoil_tensor, spoil_tensor, spoil_option, spoil_option))(
            rng, opened
        )
    name, stage = f"{seed}.safetensors", "load"
    try:
        write(folder / name, opened)
        chain = RivalLoadChain.execute(name).args[0]
        stage = "use"
        use(rng, family, chain)
    except Exception as error:
        return outcome_of(error, family, stage)
    finally:
        (folder / name).unlink(missing_ok=True)
    return "sampled"


def outcome_of(error: Exception, family: str, stage: str) -> str:
    from comfyui_rival.rival_core.errors import RivalError

    said = str(error)
    if isinstance(error, RivalError) and said.startswith("RIVAL ") and said.isprintable():
        return f"refused at {stage}" if len(said) < 500 else f"fault: {len(said)} characters"
    place = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{Path(place.filename).name}:{place.lineno}"
    return f"fault: {family}, {stage}, {type(error).__name__} at {at}: {said[:150]!r}"


def use(rng: random.Random, family: str, chain) -> None:
    """All that a loaded chain is for, some of it each time."""
    from comfyui_rival.nodes import RivalChainReport, RivalReconstruct

    model, positive, negative = model_of(family)
    denoise = rng.choice((1.0, 1.0, 0.5))
    start = rng.choice(("shuffle", "gaussian", "inverted"))
    patched = graph.patch(model, chain, strength=rng.choice((1.0, 0.5)))
    sampler = "chain" if rng.random() < 0.4 else "euler"
    found = [graph.rival_sample(patched, chain, positive, negative, start=start, denoise=denoise,
                                sampler_name=sampler)]
    if rng.random() < 0.4:
        found.append(RivalReconstruct.execute(model, chain).args[0]["samples"])
    if rng.random() < 0.2:
        RivalChainReport.execute(chain)
    assert all(bool(torch.isfinite(samples).all()) for samples in found), "NaN without a word"


def write(path: Path, opened: Opened) -> None:
    """The file, without tensors that nothing names any more, and its checksum."""
    from comfyui_rival.rival_core.chain import file as chain_file
    from comfyui_rival.rival_core.chain import tensors as tensor_file

    text = tensor_file.dump(opened.description)
    named = [f'"{name}"' in text or name in OWN for name in opened.tensors]
    tensors = {name: opened.tensors[name] for name, kept in zip(opened.tensors, named) if kept}
    tensor_file.write(path, tensors, {chain_file.KEY: text})


@contextmanager
def folders():
    """ComfyUI's folders, empty, for as long as it takes; yields the input folder."""
    import comfy.utils
    import folder_paths

    kept = {name: getattr(folder_paths, name) for name in ("input_directory", "temp_directory")}
    shown, place = comfy.utils.PROGRESS_BAR_ENABLED, Path(tempfile.mkdtemp())
    comfy.utils.set_progress_bar_enabled(False)
    try:
        for name in kept:
            (place / name).mkdir()
            setattr(folder_paths, name, str(place / name))
        yield place / "input_directory"
    finally:
        comfy.utils.set_progress_bar_enabled(shown)
        for name, value in kept.items():
            setattr(folder_paths, name, value)
        shutil.rmtree(place)


@remembered
def model_of(family: str) -> tuple:
    """A tiny model and two prompts."""
    import tiny

    model = tiny.build(family)
    return model, tiny.conditioning(model, 3, tokens=5), tiny.conditioning(model, 4, tokens=5)


@remembered
def sound(family: str) -> Opened:
    """What a file of this family holds; of every second family's prompts there are two."""
    import tiny
    from comfyui_rival.rival_core.chain import file as chain_file
    from comfyui_rival.rival_core.chain import tensors as tensor_file

    model, positive, negative = model_of(family)
    other = {} if family == "sdxl" else {"negative": negative}
    widgets = {"steps": STEPS, "schedule": "sgm_uniform", "iterations": 2,
               "solver": SCHEMES.get(family, "fixed_point")}
    chain, _ = graph.invert(model, tiny.latent(0, size=8), positive, **widgets, **other)
    with tempfile.TemporaryDirectory() as folder:
        chain_file.save(chain, path := Path(folder, "chain"), torch.zeros(4, 4, 3).byte())
        with open(path, "rb") as file:
            layout = tensor_file.read_layout(file)
            description = tensor_file.parse(layout.text[chain_file.KEY])
            return Opened(description, tensor_file.read_tensors(file, layout))


def spoil_value(rng: random.Random, opened: Opened) -> None:
    """Another value, or none, somewhere in what the header says."""
    place, key = opened.description, rng.choice(list(opened.description))
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9:
        place = place[key]
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    value = place[key]
    if rng.random() < 0.1:
        del place[key]
    elif type(value) in (int, float) and rng.random() < 0.5:
        factor = rng.choice((0, -1, 0.5, 2, 10.0 ** rng.randint(-12, 12)))
        place[key] = type(value)(value * factor)
    else:
        place[key] = copy.deepcopy(rng.choice(WORDS))


def spoil_option(rng: random.Random, opened: Opened) -> None:
    """An option in a prompt that was not there, or was another."""
    names = [name for name in ("positive", "negative") if opened.description.get(name)]
    try:
        options = opened.description[rng.choice(names)][0][1]["dict"]
        options[rng.choice(OPTIONS)] = option(rng, opened)
    except (IndexError, KeyError, TypeError):
        pass  # spoilt already


def option(rng: random.Random, opened: Opened) -> Any:
    kind = rng.random()
    if kind < 0.5:
        return copy.deepcopy(rng.choice(WORDS))
    shape = rng.choice(((), (1,), (2,), (1, 32), (2, 32), (1, 7), (1, 5, 32), (8, 8), (1, 8, 8),
                        (1, 1, 8, 8), (1, 4, 8, 8), (1, 4, 3, 5), (2, 4, 8, 8), (1, 9, 8, 8)))
    made = torch.full(shape, rng.choice((0.0, 0.5, 1.0, -1.0, 1e9, float("nan"))))
    if rng.random() < 0.2:
        made = made.nan_to_num().to(rng.choice((torch.int64, torch.bool, torch.float16)))
    opened.tensors[name := f"added.{len(opened.tensors)}"] = made
    packed = {"tensor": name}
    return packed if kind < 0.9 else rng.choice(([packed], {"dict": {"a": packed}}))


def spoil_tensor(rng: random.Random, opened: Opened) -> None:
    """Another type, shape or content of one of the tensors."""
    name = rng.choice(list(opened.tensors))
    tensor = opened.tensors[name]
    kind = rng.randrange(5)
    if kind == 0:
        other = rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8))
        opened.tensors[name] = tensor.nan_to_num(0, 0, 0).to(other)
    elif kind == 1:
        opened.tensors[name] = reshaped(rng, tensor)
    elif kind == 2:
        opened.tensors[name] = copy.deepcopy(rng.choice(list(opened.tensors.values())))
    else:
        opened.tensors[name] = refilled(rng, tensor)


def reshaped(rng: random.Random, tensor: Tensor) -> Tensor:
    ways = [tensor.flatten(), tensor[None], tensor.transpose(0, -1) if tensor.ndim else tensor]
    if tensor.ndim:
        side = rng.randrange(tensor.ndim)
        repeats = [3 if i == side else 1 for i in range(tensor.ndim)]
        half = tensor.narrow(side, 0, max(1, tensor.shape[side] // 2))
        ways += [tensor.repeat(repeats), half, tensor.flip(side)]
    return rng.choice(ways).contiguous()


def refilled(rng: random.Random, tensor: Tensor) -> Tensor:
    """Other numbers in all places, or in one."""
    values = tensor.clone()
    if not values.is_floating_point():
        return values.fill_(rng.choice((0, 1, 2, 2**62 if values.itemsize == 8 else 9)))
    first = rng.randrange(values.numel())
    place = rng.choice((values.view(-1), values.view(-1)[first : first + 1]))
    given = float("nan"), float("inf"), -float("inf"), 0.0, 1e-40, 1e30
    new = rng.choice((
        place.double() * rng.choice((-1.0, 0.0, 10.0 ** rng.randint(-38, 38))),
        place.double() + rng.choice((-1.0, 1.0, 100.0, 1e5)),
        torch.full(place.shape, rng.choice(given), dtype=torch.float64),
    ))  # fmt: skip
    place.copy_(new)
    return values
