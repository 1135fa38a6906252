"""Several exemplars acting as one at a step of the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..chain.chain import Chain
from ..chain.tokens import Layer, Tokens, join
from ..errors import RivalError
from ..inversion.fixed_point import to_d
from .exemplar import Exemplar, statistics_inside
from .gates import Attention
from .masks import token_grid
from .normalization import Statistics, adain, average
from .parts import Part


@dataclass(frozen=True)
class Steering:
    """What acts at one timestep. Whatever the order of the exemplars, the result is the same."""

    readers: tuple[Exemplar, ...]  # whose tokens are read, side by side
    rules: tuple[Attention, ...]  # of each reader's gates
    normalizers: tuple[Exemplar, ...]  # whose statistics the predicted noise takes

    def at(self, layer: Layer) -> Steering:
        """What acts in one layer."""
        if all(e.layers is None for e in self.readers):
            return self
        kept = [(e, r) for e, r in zip(self.readers, self.rules) if layer in (e.layers or [layer])]
        readers, rules = zip(*kept) if kept else ((), ())
        return Steering(readers, rules, self.normalizers)

    @property
    def replace(self) -> bool:
        """Whether own tokens are dropped: every reader's gates say so."""
        return all(rule is Attention.REPLACE for rule in self.rules)

    @property
    def attention_strength(self) -> float:
        return max((e.strength for e in self.readers), default=0.0)

    @property
    def blends(self) -> bool:
        """Whether plain attention has a share anywhere, beside the injected one."""
        return self.attention_strength < 1 or any(e.mask is not None for e in self.readers)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Every chain whose exemplar must be run at this step, each once."""
        return tuple({id(e.chain): e.chain for e in (*self.readers, *self.normalizers)}.values())


def steering(exemplars: Sequence[Exemplar], t: float, slack: float | None = None) -> Steering:
    """The exemplars whose gates are open at timestep t. slack: of the timesteps (see Gates)."""
    active = [e for e in exemplars if e.acts]
    rules = [(e, e.gates.attention(t, slack)) for e in active]
    reading = [(e, rule) for e, rule in rules if rule is not Attention.PLAIN]
    return Steering(
        tuple(e for e, _ in reading),
        tuple(rule for _, rule in reading),
        tuple(e for e in active if e.gates.normalizes(t, slack)),
    )


def with_exemplars(shape: Sequence[int], exemplars: Sequence[Exemplar]) -> list[int]:
    """The [B, C, H, W] of a plain guided batch that takes as much memory as B beside exemplars.

    Longer keys and values take about an eighth of a row for each row. Guidance doubles the batch,
    but not the exemplars' own rows, which may be of another size.
    """
    chains = {id(e.chain): e.chain for e in exemplars if e.acts}.values()
    if not chains:
        return list(shape)
    area = math.prod(shape[2:])
    rows = sum((1 + c.has_two_rows) * c.end[0, 0].numel() / area for c in chains)
    return [shape[0] + math.ceil(rows / 2 + shape[0] / 8), *shape[1:]]


def normalize(eps: Tensor, parts: Sequence[Statistics], strengths: Sequence[float]) -> Tensor:
    """The predicted noise eps [B, C, H, W] with the exemplars' averaged statistics.

    The largest strength blends it with the plain prediction: 1 is RIVAL exactly.
    """
    aligned = adain(eps, average(parts, strengths))
    strength = max(strengths)
    return aligned if strength >= 1 else torch.lerp(eps, aligned, strength)


def normalize_masked(eps: Tensor, parts: Sequence[Statistics], among: Sequence[Exemplar]) -> Tensor:
    """The same where exemplars have masks: each acts on its own part, with that part's statistics.

    Where several act they are averaged with strength times mask as weights.
    """
    weights = [e.weights(eps) for e in among]
    aligned = [adain(eps, p, statistics_inside(eps, e.mask)) for p, e in zip(parts, among)]
    total = sum(weights)
    mixed = sum(w * a for w, a in zip(weights, aligned)) / total.clamp(min=1e-6)
    return torch.lerp(eps, mixed, torch.stack(weights).amax(dim=0))


class Target(Protocol):
    """What a port knows of the rows' own tokens; equal ones put a photo's at equal places."""

    def place(self, exemplar: Exemplar, tokens: Tokens) -> Tokens: ...


def exemplar_role(chain: Chain, role: str) -> str:
    """Which exemplar row the generated rows of a role read."""
    return role if chain.has_two_rows else "positive"


class Step:
    """What the exemplars were at one sigma: their predicted noise, and the tokens to be read."""

    def __init__(self, sigma: float, steering: Steering):
        self.sigma = sigma
        self.steering = steering
        self.eps: dict[int, Tensor] = {}
        self.tokens: dict[tuple[int, str], Mapping[Layer, Tokens]] = {}
        self.merged: dict[tuple[Layer, tuple[str, ...]], Tokens] = {}
        self.lengths: dict[Layer, list[int]] = {}  # of what each reader gives to a layer

    def due(self, roles: Iterable[str]) -> Iterator[tuple[Chain, list[str], bool]]:
        """What must run before generated rows of these roles: (chain, its rows, are they read).

        A chain's rows fit in one model call, the positive first; rows that have run are left out.
        """
        for chain in self.steering.chains:
            reads = any(e.chain is chain for e in self.steering.readers)
            rows = {exemplar_role(chain, role) for role in roles} if reads else set()
            missing = {row for row in rows if (id(chain), row) not in self.tokens}
            if self.normalizes(chain) and id(chain) not in self.eps:
                missing.add("positive")
            if missing:
                yield chain, sorted(missing, reverse=True), reads

    def layers(self, chain: Chain) -> frozenset[Layer]:
        """The layers in which a chain's exemplar is read."""
        readers = [e for e in self.steering.readers if e.chain is chain]
        return frozenset().union(*(e.layers or chain.model.every_layer for e in readers))

    def normalizes(self, chain: Chain) -> bool:
        """Whether a chain's predicted noise is needed."""
        return any(e.chain is chain for e in self.steering.normalizers)

    def keep(
        self,
        chain: Chain,
        x: Tensor,
        denoised: Mapping[str, Tensor],
        tokens: Mapping[str, Mapping[Layer, Tokens]],
    ) -> None:
        """What a chain's exemplar x gave, for each row that ran; no estimates if it ended early."""
        if "positive" in denoised:
            self.eps[id(chain)] = to_d(x, self.sigma, denoised["positive"])
        for row in tokens:
            self.tokens[id(chain), row] = tokens[row]

    def recall(
        self, chain: Chain, row: str, tokens: Mapping[Layer, Tokens], eps: Tensor | None
    ) -> None:
        """What a row of a chain's exemplar gave before: its tokens, its predicted noise."""
        self.tokens[id(chain), row] = tokens
        if eps is not None:
            self.eps[id(chain)] = eps

    def rows_for(self, layer: Layer, role: str) -> tuple[str, ...]:
        """Which row of each of a layer's photos the generated rows of a role read."""
        return tuple(exemplar_role(e.chain, role) for e in self.steering.at(layer).readers)

    def read(self, layer: Layer, role: str, target: Target | None = None) -> Tokens:
        """The layer's readers' tokens for rows of this role, side by side.

        Always one object; with a target, which puts the tokens among positions, always a new one:
        what it moves is as large as all that the step keeps.
        """
        if target is not None:
            return self.joined(layer, role, target)
        key = layer, self.rows_for(layer, role)
        if key not in self.merged:
            self.merged[key] = self.joined(layer, role)
        return self.merged[key]

    def joined(self, layer: Layer, role: str, target: Target | None = None) -> Tokens:
        steering = self.steering.at(layer)
        rows = self.rows_for(layer, role)
        held = [self.tokens[id(e.chain), row] for e, row in zip(steering.readers, rows)]
        if not all(layer in tokens for tokens in held):
            raise RivalError(
                "the photo's own model call never reached the self-attention of block "
                f"{layer[0]}: remove what skips parts of the model"
            )
        parts = []
        for exemplar, tokens in zip(steering.readers, held):
            seen = tokens[layer] if target is None else target.place(exemplar, tokens[layer])
            parts.append(exemplar.visible(seen, layer, steering.replace))
        self.lengths[layer] = [part.count for part in parts]
        return join(parts)

    def shares(
        self, layer: Layer, tokens: int, like: Tensor, part: Part | None = None
    ) -> tuple[float | Tensor, Tensor | None]:
        """The injected attention's share in a layer, and which exemplar tokens each query reads.

        For queries that are so many tokens over a latent like this, which may be a part of the
        target: a number or [1, L, 1], and None or [L, all readers' tokens].
        """
        steering = self.steering.at(layer)
        if all(e.mask is None for e in steering.readers):
            return steering.attention_strength, None
        grid = token_grid(tokens, tuple(like.shape[-2:]))
        if grid is None:
            raise RivalError(
                f"a layer has {tokens} tokens and the latent is {tuple(like.shape[-2:])}: mask "
                "does not work with nodes that merge or cut tokens, remove them or the mask"
            )
        places = like.new_empty(1, 1, *grid[1])
        weights = [e.weights(places, part).flatten() for e in steering.readers]
        share = torch.stack(weights).amax(dim=0)[None, :, None]
        if len(weights) == 1:
            return share, None
        reads = [(w > 0)[:, None].expand(-1, n) for w, n in zip(weights, self.lengths[layer])]
        return share, torch.cat(reads, dim=1)

    def shares_of_parts(
        self, layer: Layer, tokens: int, like: Tensor, parts: Sequence[Part]
    ) -> tuple[float | Tensor, Tensor | None]:
        """The same for queries each row of which is a part of its own: [B, L, 1], [B, L, n]."""
        found = [self.shares(layer, tokens, like, part) for part in parts]
        share, allowed = found[0]
        if isinstance(share, Tensor):
            share = torch.cat([s for s, _ in found])
        return share, None if allowed is None else torch.stack([a for _, a in found])

    def normalize(self, x: Tensor, denoised: Tensor) -> Tensor:
        """The guided prediction with the exemplars' noise statistics, where the gates say so."""
        normalizers = self.steering.normalizers
        if not normalizers:
            return denoised
        parts = [e.statistics(self.eps[id(e.chain)]) for e in normalizers]
        eps = to_d(x, self.sigma, denoised)
        if any(e.mask is not None for e in normalizers):
            eps = normalize_masked(eps, parts, normalizers)
        else:
            eps = normalize(eps, parts, [e.strength for e in normalizers])
        return x - self.sigma * eps
