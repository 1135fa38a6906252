"""RIVAL on a diffusers UNet: the nodes' chain and the nodes' variations, without ComfyUI.

This and diffusers_model.py are the only modules of the package that know a host. Nothing in the
package imports them: they are for the demo, the benchmarks and the tests. Latents are in the
model's own latent space, that is, the VAE's times its scaling_factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..chain.chain import Chain
from ..chain.tokens import Layer, Tokens
from ..errors import RivalError
from ..inversion import fixed_point
from ..inversion.fixed_point import DDIM, Solver, to_d
from ..inversion.schedule import check_sigmas, rival_sigmas
from ..sampling.noise import start_latents
from ..steering.attention import blended_attention, lengthen
from ..steering.exemplar import Exemplar
from ..steering.step import Step, steering
from .model import Model, Prompt

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def invert(
    model: Model,
    latent: Tensor,
    positive: Prompt,
    steps: int = 50,
    negative: Prompt | None = None,
    cfg: float = 1.0,
    sigmas: Tensor | None = None,
    callback: Callable[[dict], None] | None = None,
    solver: Solver = DDIM,
) -> Chain:
    """The chain of one clean latent [1, C, H, W], as RIVAL Invert makes it.

    sigmas: falling; in place of the paper's `steps`. Cost: up to S * solver.most_evaluations UNet
    calls, of two rows if cfg is not 1.
    """
    if latent.ndim != 4 or len(latent) != 1:
        raise RivalError(f"the latent has the shape {list(latent.shape)}: give one image's")
    falling = rival_sigmas(model.timesteps, steps) if sigmas is None else check_sigmas(sigmas)
    rising, prompts = falling.flip(0), by_role(positive, negative, cfg)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return guided(model, x, float(sigma[0]), prompts, cfg)

    x = model.on_device(latent)
    inverted = fixed_point.invert(denoise, x, rising, model.scaling, solver, callback)
    return Chain(
        sigmas=rising,
        latents=torch.cat(inverted.latents).cpu(),
        scaling=model.scaling,
        model=model.card,
        positive=positive,
        negative=negative,
        cfg=cfg,
        solver=solver,
        schedule="rival" if sigmas is None else "sigmas",
        residuals=inverted.residuals[:, 0],
        calls=inverted.evaluations[:, 0],
    )


@torch.no_grad()
def sample(
    model: Model,
    chain: Chain,
    exemplars: Sequence[Exemplar],
    positive: Prompt,
    negative: Prompt | None = None,
    seed: int = 0,
    cfg: float = 5.0,
    start: str = "shuffle",
    draws: Sequence[int] = (0,),
    size: tuple[int, int] | None = None,
    callback: Callable[[dict], None] | None = None,
) -> Tensor:
    """Variations [len(draws), C, *size], as RIVAL KSampler makes them on patched models.

    Generation starts from `chain` and is steered by `exemplars`, usually [Exemplar(chain)]. Item i
    is draw draws[i] of the seed: range(4) gives four images, the same ones as four single runs.
    """
    check_chain(model, chain)
    x = start_latents(chain.end, size or tuple(chain.latents.shape[2:]), draws, seed, start)
    sigmas = chain.falling_sigmas()
    x = sample_euler(model, x, sigmas, positive, negative, cfg, exemplars, callback)
    return x / chain.scaling.level(float(sigmas[-1]))


@torch.no_grad()
def sample_euler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    positive: Prompt,
    negative: Prompt | None = None,
    cfg: float = 1.0,
    exemplars: Sequence[Exemplar] = (),
    callback: Callable[[dict], None] | None = None,
) -> Tensor:
    """Euler along falling sigmas from any x [B, C, H, W] at the first: DDIM with eta = 0.

    Each step costs one UNet call for the images and one for each chain that acts. What a callback
    raises ends the run; the UNet is then as it was.
    """
    for exemplar in exemplars:
        check_chain(model, exemplar.chain)
        if exemplar.mask is not None:
            raise RivalError("this engine has no masks on the target: leave Exemplar's mask out")
    prompts = by_role(positive, negative, cfg)
    levels, x = sigmas.tolist(), model.on_device(x)
    with hooked(model) as hooks:
        for i, (sigma, target) in enumerate(zip(levels, levels[1:])):
            step = Step(sigma, steering(exemplars, model.timesteps.t(sigma), model.timesteps.slack))
            denoised = aligned(model, hooks, step, x, prompts, cfg)
            x = x + (target - sigma) * to_d(x, sigma, denoised)
            if callback is not None:
                state = {"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised}
                callback(state)
    return x.cpu()


def aligned(model: Model, hooks: Hooks, step: Step, x: Tensor, prompts: dict, cfg: float) -> Tensor:
    """The images' guided prediction at a step, after the exemplars they read have run."""
    for chain, rows, reads in step.due(prompts):
        x_ex = model.on_device(chain.at(step.sigma))
        recorder = Recorder(rows)
        with hooks.acting(recorder if reads else None):
            denoised = model.denoise(x_ex, step.sigma, [getattr(chain, row) for row in rows])
        step.keep(chain, x_ex, dict(zip(rows, denoised)), recorder.tokens)
    with hooks.acting(Injection(step, list(prompts)) if step.steering.readers else None):
        denoised = guided(model, x, step.sigma, prompts, cfg)
    return step.normalize(x, denoised)


def guided(model: Model, x: Tensor, sigma: float, prompts: dict[str, Prompt], cfg: float) -> Tensor:
    """Classifier-free guidance, where there is a negative."""
    cond, *uncond = model.denoise(x, sigma, list(prompts.values()))
    return uncond[0] + (cond - uncond[0]) * cfg if uncond else cond


def by_role(positive: Prompt, negative: Prompt | None, cfg: float) -> dict[str, Prompt]:
    """The prompts that a guidance needs: at 1 the positive alone, as ComfyUI does."""
    if cfg == 1.0:
        return {"positive": positive}
    if negative is None:
        raise RivalError(f"cfg is {cfg} and there is no negative: give one or set 1")
    return {"positive": positive, "negative": negative}


def check_chain(model: Model, chain: Chain) -> None:
    if chain.model != model.card:
        raise RivalError("the chain is another model's: invert the image with the one that samples")


# --- self-attention ------------------------------------------------------------------------------


class Hooks:
    """What self-attention does for as long as it is hooked: `act` says, if there is one."""

    act: Callable[[Layer, Tensor, Attend], Tensor] | None = None

    @contextmanager
    def acting(self, act: Callable | None) -> Iterator[None]:
        self.act = act
        try:
            yield
        finally:
            self.act = None


class Processor:
    """An attention processor around a layer's own one, which goes on doing the computation."""

    def __init__(self, layer: Layer, own: Any, hooks: Hooks):
        self.layer, self.own, self.hooks = layer, own, hooks

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if self.hooks.act is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """Attention whose keys and values are both projected from k, which is v."""
            return self.own(attn, q, encoder_hidden_states=k)

        return self.hooks.act(self.layer, hidden_states, attend)


@contextmanager
def hooked(model: Model) -> Iterator[Hooks]:
    """Hooks in every self-attention; the UNet's own processors come back however the run ends."""
    hooks, own = Hooks(), {layer: attn.processor for layer, attn in model.layers.items()}
    try:
        for layer, attn in model.layers.items():
            attn.set_processor(Processor(layer, own[layer], hooks))
        yield hooks
    finally:
        for layer, attn in model.layers.items():
            attn.set_processor(own[layer])


class Recorder:
    """For the exemplar's own call: keeps what its self-attention reads."""

    def __init__(self, rows: Sequence[str]):
        self.tokens: dict[str, dict[Layer, Tokens]] = {row: {} for row in rows}

    def __call__(self, layer: Layer, own: Tensor, attend: Attend) -> Tensor:
        for row, kept in zip(self.tokens, own.split(1)):
            self.tokens[row][layer] = Tokens(kept, kept)
        return attend(own, own, own)


class Injection:
    """For the generated rows' call: they read the exemplars' tokens, as the gates say."""

    def __init__(self, step: Step, roles: Sequence[str]):
        self.step, self.roles = step, roles

    def __call__(self, layer: Layer, own: Tensor, attend: Attend) -> Tensor:
        steering = self.step.steering.at(layer)
        if not steering.readers:
            return attend(own, own, own)
        strength, replace = steering.attention_strength, steering.replace
        chunks = [self.step.read(layer, role).context for role in self.roles]
        longer = lengthen(own, chunks, len(own) // len(chunks), replace and strength >= 1)
        if strength >= 1:
            return attend(own, longer, longer)
        length = chunks[0].shape[1]
        return blended_attention(attend, own, longer, longer, length, replace, strength)
