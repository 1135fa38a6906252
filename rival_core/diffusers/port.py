"""What the engine asks of a model, and how its self-attention is read and lent to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from ..chain.chain import ModelCard
from ..chain.tokens import Layer, Tokens
from ..inversion.scaling import Scaling
from ..inversion.schedule import Timesteps
from ..steering.step import Step


class Recording(Protocol):
    """For the exemplar's own call: keeps what its self-attention reads, by row and layer."""

    tokens: dict[str, dict[Layer, Tokens]]

    def __call__(self, layer: Layer, *tensors: Any) -> Tensor: ...


class Network(Protocol):
    """A network and its noise levels: what a MODEL is to the nodes.

    layers: the attention modules that are read, whose processors are replaced for a run.
    """

    layers: dict[Layer, Any]
    card: ModelCard
    timesteps: Timesteps
    scaling: Scaling

    def schedule(self, steps: int) -> Tensor:
        """The falling sigmas [steps + 1] that a chain follows unless told otherwise."""

    def on_device(self, x: Tensor) -> Tensor: ...

    def denoise(self, x: Tensor, sigma: float, prompts: Sequence[Any]) -> list[Tensor]:
        """The denoised estimate of x [B, C, H, W] under each prompt, in one model call."""

    def processor(self, layer: Layer, own: Any, hooks: Hooks) -> Any:
        """What stands in for a layer's own processor while the model is hooked."""

    def recorder(self, rows: Sequence[str], x: Tensor) -> Recording:
        """For the call that denoises a photo's latent x, under the prompts of these rows."""

    def injection(self, step: Step, roles: Sequence[str], x: Tensor) -> Callable[..., Tensor]:
        """For the call that denoises latents x beside the photos of a step, as these roles."""


class Hooks:
    """What self-attention does for as long as it is hooked: `act` says, if there is one."""

    act: Callable[..., Tensor] | None = None

    @contextmanager
    def acting(self, act: Callable | None) -> Iterator[None]:
        self.act = act
        try:
            yield
        finally:
            self.act = None


@contextmanager
def hooked(model: Network) -> Iterator[Hooks]:
    """Hooks in every self-attention; the model's own processors come back however the run ends."""
    hooks, own = Hooks(), {layer: attn.processor for layer, attn in model.layers.items()}
    try:
        for layer, attn in model.layers.items():
            attn.set_processor(model.processor(layer, own[layer], hooks))
        yield hooks
    finally:
        for layer, attn in model.layers.items():
            attn.set_processor(own[layer])
