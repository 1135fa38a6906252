"""What other nodes do to a MODEL's calls, re-created small: step caches, tiles, windows."""

from __future__ import annotations

import inspect

import torch
from composing import run_node


def step_cache(model, every: int = 2, kind: str | None = None, key: str | None = None):
    """A clone that makes every so-many-th call only and repeats its answer in between.

    Through the function wrapper, or through a wrapper of some kind under some key.
    """
    model, held = model.clone(), {"calls": 0, "answer": None}

    def cached(compute):
        if held["calls"] % every == 0:
            held["answer"] = compute()
        held["calls"] += 1
        return held["answer"]

    if kind is None:
        model.set_model_unet_function_wrapper(lambda apply, call: cached(
            lambda: apply(call["input"], call["timestep"], **call["c"])))
    else:
        wrapper = lambda executor, *args, **kwargs: cached(lambda: executor(*args, **kwargs))  # noqa: E731
        model.add_wrapper_with_key(kind, key, wrapper)
    return model


def tiler(model, size: int = 8, batch: int = 1, by_prompt: bool = False, shift: int = 0,
          change=lambda tile: tile):
    """A clone that shows the model square tiles, so many a call, and puts their answers together.

    by_prompt: all tiles of one prompt before the next one's, else all prompts of one tile first.
    shift: the latent is rolled by as much before it is cut, so that some tiles wrap around.
    """
    model = model.clone()

    def cut(x, call):
        return x.roll((shift, shift), (2, 3)) if shift else x

    def tiled(apply, call):
        x, c = cut(call["input"], call), call["c"]
        out = torch.zeros_like(x)
        places = [(i, j) for i in range(0, x.shape[2], size) for j in range(0, x.shape[3], size)]
        for first in range(0, len(places), batch):
            some = places[first : first + batch]
            stack = torch.stack([x[:, :, i : i + size, j : j + size] for i, j in some])

            def repeated(value, some=some):
                rows = value if by_prompt else value[None].expand(len(some), *value.shape)
                return rows.repeat_interleave(len(some), 0) if by_prompt else rows.flatten(0, 1)

            tiles = stack.movedim(0, 1).flatten(0, 1) if by_prompt else stack.flatten(0, 1)
            asked = {k: repeated(v) if torch.is_tensor(v) else v for k, v in c.items()}
            told = apply(change(tiles), repeated(call["timestep"]), **asked)
            shape = (len(x), len(some)) if by_prompt else (len(some), len(x))
            told = told.unflatten(0, shape)
            told = told.movedim(1, 0) if by_prompt else told
            for (i, j), tile in zip(some, told):
                out[:, :, i : i + size, j : j + size] = tile
        return out.roll((-shift, -shift), (2, 3)) if shift else out

    model.set_model_unet_function_wrapper(tiled)
    return model


def windows(model, dim: int = 3, length: int = 4, overlap: int = 1, schedule="standard_static",
            **changes):
    """A clone with core's Context Windows along a dimension of the latent."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Node

    settings = {"context_length": length, "context_overlap": overlap, "context_schedule": schedule,
                "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": dim,
                "freenoise": False, **changes}  # fmt: skip
    known = inspect.signature(Node.execute).parameters
    settings = {name: value for name, value in settings.items() if name in known}
    return run_node(Node, model, **settings)[0]
