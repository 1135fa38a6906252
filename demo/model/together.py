"""Training in several processes at once, each on samples of its own, under `torchrun`.

    torchrun --nproc-per-node 2 demo/model/train_flow.py flow --minutes 60 --batch 32

Every process holds the same weights: gradients are averaged, and what a clock decides, the first
one decides. Where there is one process only, all of this does nothing.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def join() -> None:
    """The others, if `torchrun` started this process."""
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def place() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def as_first(value: float) -> float:
    """What the first process has there."""
    if count() == 1:
        return value
    agreed = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(agreed, 0)
    return agreed.item()


def average(tensors: list[Tensor]) -> None:
    """In place, over all processes."""
    if count() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / count()).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors)])


def divided(work, batch: Tensor) -> Tensor:
    """What `work` makes of a batch, each process doing its part. [n, ...] to the same shape."""
    parts = batch.tensor_split(count())
    if len(parts) == 1:
        return work(batch)
    mine = work(parts[place()]).contiguous()
    done = [mine if number == place() else torch.empty(part.shape, dtype=mine.dtype)
            for number, part in enumerate(parts)]
    for number, part in enumerate(done):
        dist.broadcast(part, number)
    return torch.cat(done)
