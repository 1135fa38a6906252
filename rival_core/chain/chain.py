"""The exemplar's inversion chain: one value that travels on one wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..inversion.fixed_point import DDIM, Solver
from ..inversion.scaling import Scaling
from .features import FeatureCache
from .tokens import Layer


def same(a: Any, b: Any) -> bool:
    """Whether two conditionings (tensors and plain values, nested) hold the same."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu()))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or (isinstance(a, str | int | float) and a == b)


@dataclass(frozen=True)
class ModelCard:
    """What a chain must share with the model that samples from it."""

    family: str  # the host's name for the architecture
    latent_format: str
    layers: tuple[tuple[tuple[str, int], int, int], ...]  # (block, depth in block, width)

    @property
    def is_transformer(self) -> bool:
        """Whether image and text, or the image alone, are tokens all through: no UNet."""
        return any(block == "dit" for (block, _), *_ in self.layers)

    @property
    def every_layer(self) -> frozenset[Layer]:
        """All self-attention layers."""
        return frozenset((block, depth) for block, depth, _ in self.layers)


@dataclass(frozen=True, eq=False)
class Chain:
    """An image's trajectory to noise, and what it takes to sample beside it. Immutable.

    Only its feature cache fills up, with what could be computed again.

    sigmas:  [S + 1] float32, rising from the terminal sigma to the noisiest.
    latents: [S + 1, C, H, W] float32, in the model's latent space and sigma coordinates; of models
        whose latents have time [S + 1, C, 1, H, W]. Below, H, W stands for either: the `grid`.
    positive, negative: the conditioning it was inverted with, in the host's own form; with a
        negative, unconditional rows have an exemplar row of their own.
    cfg: the guidance it was inverted with.
    residuals, calls: [S], how well each step was solved, where any was, and with how many calls.
    weights: the host's fingerprint of the weights it was inverted with; "" is unknown.
    is_flat: whether the photo's latent came without the time that the model's latents have. No file
        holds it.
    partner: [S + 1, C, H, W], EDICT's second latents. noise: [S, C, H, W], edit-friendly noise
        maps of unit scale; map i leads from the latent at place i + 1 down.
    seed: of what the host draws where it encodes the conditioning (unCLIP's augmentation). One for
        all chains, so that no file holds it: to change it is to change what a chain was made with.
    """

    seed: ClassVar[int] = 0

    sigmas: Tensor
    latents: Tensor
    scaling: Scaling
    model: ModelCard
    positive: Any
    negative: Any = None
    cfg: float = 1.0
    solver: Solver = DDIM
    schedule: str = "rival"
    residuals: Tensor | None = None
    calls: Tensor | None = None
    weights: str = ""
    is_flat: bool = False
    partner: Tensor | None = None
    noise: Tensor | None = None
    features: FeatureCache = field(default_factory=FeatureCache, init=False, repr=False)

    def __repr__(self) -> str:
        """Short: hosts print what travels on a wire whenever a node fails."""
        channels, (height, width) = self.latents.shape[1], self.size
        return (
            f"<RIVAL chain: {self.model.family:.40}, {self.steps} steps ({self.schedule:.40}, "
            f"{self.solver.name}), latent {width} x {height}, {channels} channels>"
        )

    @property
    def evaluations(self) -> int:
        """Model evaluations that the inversion took: two a call if it was guided."""
        calls = self.steps if self.calls is None else int(self.calls.sum())
        return calls * (1 if self.cfg == 1.0 else 2)

    @cached_property
    def has_two_rows(self) -> bool:
        """Whether unconditional rows have an exemplar of their own, seen with another prompt."""
        return self.negative is not None and not same(self.positive, self.negative)

    @property
    def unsolved(self) -> list[int]:
        """The steps, from 0, at which an iterating solver stopped above its tolerance."""
        if not self.solver.iterates or self.residuals is None:
            return []
        return (self.residuals > self.solver.tolerance).nonzero().flatten().tolist()

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def beside(self) -> dict[str, Tensor]:
        """What the way up left beside the latents, by its field's name."""
        kept = {"partner": self.partner, "noise": self.noise}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    @property
    def grid(self) -> tuple[int, ...]:
        """The places of a latent: (height, width), or (1, height, width) where it has time."""
        return tuple(self.latents.shape[2:])

    @property
    def size(self) -> tuple[int, int]:
        """A latent's height and width."""
        return tuple(self.latents.shape[-2:])

    def as_photo(self, samples: Tensor) -> Tensor:
        """Samples [B, C, *grid] with a time only if the photo's had one: one VAE takes both."""
        return samples.squeeze(2) if self.is_flat else samples

    @property
    def end(self) -> Tensor:
        """[1, C, H, W]: the noisiest latent, where generation starts."""
        return self.latents[-1:]

    @property
    def clean(self) -> Tensor:
        """[1, C, H, W]: the exemplar itself, without the terminal sigma's scale."""
        return self.scaling.rescale(self.latents[:1], float(self.sigmas[0]), 0.0)

    @property
    def top(self) -> float:
        """The noisiest sigma."""
        return float(self.sigmas[-1])

    def at(self, sigma: float) -> Tensor:
        """[1, C, H, W]: the exemplar at any sigma.

        Exactly the stored latent at the chain's own sigmas, linear in sigma between them (as
        Euler integrates), rescaled above the top, the last latent below the terminal sigma.
        """
        if sigma >= self.top:
            return (
                self.end if sigma == self.top else self.scaling.rescale(self.end, self.top, sigma)
            )
        if sigma <= float(self.sigmas[0]):
            return self.latents[:1]
        i = int(torch.searchsorted(self.sigmas, sigma, right=True)) - 1
        weight = (sigma - float(self.sigmas[i])) / float(self.sigmas[i + 1] - self.sigmas[i])
        return self.latents[i : i + 1] + weight * (
            self.latents[i + 1 : i + 2] - self.latents[i : i + 1]
        )

    def is_torn_at(self, sigma: float) -> bool:
        """Whether the latents on both sides of a sigma have nothing to do with each other."""
        is_between = float(self.sigmas[0]) < sigma < self.top and self.place(sigma) is None
        return is_between and self.solver.scheme is not None and self.solver.scheme.is_bound

    def slope(self, place: int) -> Tensor:
        """[1, C, H, W]: the noise (or velocity) that takes the latent at a place, from 1, one down.

        Where Euler's step was solved, and unguided, that is what the model predicts there.
        """
        rise = self.latents[place] - self.latents[place - 1]
        return (rise / (self.sigmas[place] - self.sigmas[place - 1]))[None]

    def place(self, sigma: float) -> int | None:
        """Which of the chain's own sigmas this is, exactly, or None."""
        found = (self.sigmas == sigma).nonzero()
        return int(found[0]) if len(found) else None

    def falling_sigmas(self, end_at_zero: bool = False) -> Tensor:
        """The sigmas in sampling order, with a final 0 appended if asked and not there."""
        sigmas = self.sigmas.flip(0)
        return (
            torch.cat([sigmas, sigmas.new_zeros(1)]) if end_at_zero and sigmas[-1] > 0 else sigmas
        )

    def get_ram_usage(self) -> int:
        """Bytes held, for the host's output cache."""
        beside = sum(kept.nbytes for kept in self.beside.values())
        return self.latents.nbytes + beside + self.sigmas.nbytes + self.features.nbytes

    def __deepcopy__(self, memo) -> Chain:
        return self  # immutable, and hosts deep-copy what hangs on a model
