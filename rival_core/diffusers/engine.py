"""RIVAL on diffusers' networks: the nodes' chain and the nodes' variations, without ComfyUI.

The modules of this folder are the only ones of the package that know a host. Nothing in the package
imports them: they are for the demo, the benchmarks and the tests. Latents are in the model's own
latent space: the VAE's, less its shift_factor where it has one, times its scaling_factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..chain.chain import Chain
from ..errors import RivalError
from ..inversion import fixed_point
from ..inversion.fixed_point import DDIM, Solver, to_d
from ..inversion.schedule import check_sigmas
from ..sampling.chain_walk import sample_chain
from ..sampling.noise import start_latents
from ..steering.exemplar import Exemplar
from ..steering.step import Step, steering
from .model import Prompt
from .port import Hooks, Network, hooked


@torch.no_grad()
def invert(
    model: Network,
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

    sigmas: falling; in place of the model's own `steps`. Cost: up to S * solver.most_evaluations
    model calls, of two rows if cfg is not 1.
    """
    if latent.ndim != 4 or len(latent) != 1:
        raise RivalError(f"the latent has the shape {list(latent.shape)}: give one image's")
    falling = model.schedule(steps) if sigmas is None else check_sigmas(sigmas)
    rising, prompts = falling.flip(0), by_role(positive, negative, cfg)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return guided(model, x, float(sigma[0]), prompts, cfg)

    x = model.on_device(latent)
    inverted = fixed_point.invert(denoise, x, rising, model.scaling, solver, callback)
    return Chain(
        sigmas=rising,
        **inverted.on("cpu").of_chain(),
        scaling=model.scaling,
        model=model.card,
        positive=positive,
        negative=negative,
        cfg=cfg,
        solver=solver,
        schedule="rival" if sigmas is None else "sigmas",
    )


@torch.no_grad()
def reconstruct(model: Network, chain: Chain) -> Tensor:
    """The way back [1, C, H, W] along a chain, as RIVAL Reconstruct walks it."""
    check_chain(model, chain)
    sigmas, guidance = chain.falling_sigmas(), (chain.positive, chain.negative, chain.cfg)
    if chain.solver.scheme is None:
        x = sample_euler(model, chain.end, sigmas, *guidance)
    else:
        prompts = by_role(*guidance)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return guided(model, x, float(sigma[0]), prompts, chain.cfg)

        x = sample_chain(denoise, model.on_device(chain.end), sigmas, chain, is_own=True).cpu()
    return chain.scaling.rescale(x, float(sigmas[-1]), 0.0)


@torch.no_grad()
def sample(
    model: Network,
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
    model: Network,
    x: Tensor,
    sigmas: Tensor,
    positive: Prompt,
    negative: Prompt | None = None,
    cfg: float = 1.0,
    exemplars: Sequence[Exemplar] = (),
    callback: Callable[[dict], None] | None = None,
) -> Tensor:
    """Euler along falling sigmas from any x [B, C, H, W] at the first: DDIM with eta = 0.

    Each step costs one model call for the images and one for each chain that acts. What a callback
    raises ends the run; the model is then as it was.
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


def aligned(
    model: Network, hooks: Hooks, step: Step, x: Tensor, prompts: dict, cfg: float
) -> Tensor:
    """The images' guided prediction at a step, after the exemplars they read have run."""
    for chain, rows, reads in step.due(prompts):
        x_ex = model.on_device(chain.at(step.sigma))
        recorder = model.recorder(rows, x_ex)
        with hooks.acting(recorder if reads else None):
            denoised = model.denoise(x_ex, step.sigma, [getattr(chain, row) for row in rows])
        step.keep(chain, x_ex, dict(zip(rows, denoised)), recorder.tokens)
    reading = bool(step.steering.readers)
    with hooks.acting(model.injection(step, list(prompts), x) if reading else None):
        denoised = guided(model, x, step.sigma, prompts, cfg)
    return step.normalize(x, denoised)


def guided(
    model: Network, x: Tensor, sigma: float, prompts: dict[str, Prompt], cfg: float
) -> Tensor:
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


def check_chain(model: Network, chain: Chain) -> None:
    if chain.model != model.card:
        raise RivalError("the chain is another model's: invert the image with the one that samples")
