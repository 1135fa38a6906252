"""What training keeps between runs: weights, their running average, optimizer and step."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import together
import torch
from torch import nn


class Training:
    """A model in training, its optimizer and the exponential average of its weights.

    Nothing random is kept: a step draws from a generator seeded with the number of samples before
    it, so a run that was cut anywhere continues exactly as if it had not been.
    """

    def __init__(self, name: str, model: nn.Module, folder: Path, rate: float, warmup: int,
                 device: torch.device, decay: float = 0.9995, make_optimizer=None):
        self.name, self.device = name, device
        self.path = folder / f"{name}.pt"
        self.model = model.to(device, memory_format=torch.channels_last)
        self.rate, self.warmup, self.decay = rate, warmup, decay
        self.optimizer = (make_optimizer or _adam)(self.model, rate)
        self.average = {name: tensor.detach().clone()
                        for name, tensor in model.state_dict().items()}
        self.step = 0
        self.samples = 0
        self.seconds = 0.0
        if self.path.exists():
            self._load()

    def seed(self, batch: int) -> int:
        """The number of the next batch's first sample, in this process."""
        return self.samples + together.place() * batch

    def update(self, loss: torch.Tensor, samples: int, slowing: float = 1.0) -> None:
        """One step of the optimizer, at this share of its rate, and of the running average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * slowing * min(1.0, (self.step + 1) / self.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        together.average([p.grad for p in self.model.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += samples
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        current = self.model.state_dict()
        with torch.no_grad():
            torch._foreach_lerp_([self.average[name] for name in current],
                                 list(current.values()), 1 - decay)

    def save(self) -> None:
        """Write everything to a file of its own, then move that into place whole."""
        if together.place() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        torch.save({"model": self.model.state_dict(), "average": self.average,
                    "optimizer": self.optimizer.state_dict(), "step": self.step,
                    "samples": self.samples, "seconds": self.seconds}, partial)
        os.replace(partial, self.path)

    def averaged(self) -> nn.Module:
        """A copy of the model with the running average for weights."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    def _load(self) -> None:
        saved = torch.load(self.path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average = saved["average"]
        self.step, self.samples, self.seconds = saved["step"], saved["samples"], saved["seconds"]


def _adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01,
                             fused=True)


def read_average(path: Path, last: bool = False) -> dict[str, torch.Tensor]:
    """The weights' running average, or the last weights, out of a training's file."""
    return torch.load(path, map_location="cpu", weights_only=True)["model" if last else "average"]
