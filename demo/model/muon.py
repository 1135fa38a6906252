"""Muon (Jordan et al. 2024) for the many matrices of one shape in blocks, AdamW beside it.

Such a matrix's step is its momentum made orthogonal. All of one shape are made so at once, which
costs little beside a batch of convolutions of 64 x 576, and a third of a batch of 32 scenes for
the flow's matrices.
"""

from __future__ import annotations

import together
import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SIZE = 0.2  # the root mean square of a step at rate 1, as AdamW's are
QUINTIC = 3.4445, -4.7750, 2.0315  # published: drives singular values near 1 within five rounds
AT_ONCE = 8  # matrices; more of them leave a core's cache


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns]: the nearest with equal singular values, in bf16."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.transpose(1, 2)).transpose(1, 2)
    x = (matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
    return torch.cat([_orthogonal(some) for some in x.split(AT_ONCE)])


def _orthogonal(x: Tensor) -> Tensor:
    a, b, c = QUINTIC
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """For weights of one shape."""

    def __init__(self, weights: list[nn.Parameter], lr: float):
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            grads = [weight.grad.flatten(1) for weight in weights]
            momenta = [self.state[weight].setdefault("momentum", torch.zeros_like(grad))
                       for weight, grad in zip(weights, grads)]
            torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
            ahead = torch.stack(torch._foreach_lerp(grads, momenta, MOMENTUM))
            size = SIZE * max(ahead.shape[1:]) ** 0.5
            for weight, step in zip(weights, together.divided(orthogonal, ahead)):
                weight.sub_(step.view_as(weight), alpha=group["lr"] * size)


def by_shape(model: nn.Module) -> list[list[nn.Parameter]]:
    """What Muon is for: square convolutions, and the matrices of a transformer's blocks."""
    found: dict[torch.Size, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if (p.ndim == 4 and p.shape[0] == p.shape[1]) or (p.ndim == 2 and "blocks." in name):
            found.setdefault(p.shape, []).append(p)
    return [*found.values()]


class MuonBesideAdam:
    """What `Training` asks of an optimizer, for both at once."""

    def __init__(self, model: nn.Module, rate: float):
        shapes = by_shape(model)
        chosen = {id(p) for weights in shapes for p in weights}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.both = [*(Muon(weights, rate) for weights in shapes),
                     torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)]
        self.param_groups = [group for one in self.both for group in one.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for one in self.both:
            one.zero_grad(set_to_none)

    def step(self) -> None:
        for one in self.both:
            one.step()

    def state_dict(self) -> list[dict]:
        return [one.state_dict() for one in self.both]

    def load_state_dict(self, states: list[dict]) -> None:
        for one, state in zip(self.both, states):
            one.load_state_dict(state)
        self.param_groups = [group for one in self.both for group in one.param_groups]
