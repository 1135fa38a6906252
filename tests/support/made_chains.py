"""Chains that no model made."""

from __future__ import annotations

import torch


def make_chain(steps=6, size=(16, 16), channels=4, solver="ddim", name="SD15", **fields):
    """White noise of deviations 0.5, 0.75, 1, … on nothing."""
    from comfyui_rival.rival_core.chain.chain import Chain, ModelCard
    from comfyui_rival.rival_core.inversion.fixed_point import Solver
    from comfyui_rival.rival_core.inversion.scaling import Scaling

    generator = torch.Generator().manual_seed(0)
    sigmas = torch.logspace(-1.5, 1.16, steps + 1)
    image = torch.randn(channels, *size, generator=generator)
    image *= 0.5 + 0.25 * torch.arange(channels)[:, None, None]
    scaling = Scaling(14.6)
    latents = torch.stack([image * scaling.level(s) for s in sigmas.tolist()])
    figures = {"residuals": torch.logspace(-5, -2, steps), "calls": torch.full([steps], 3)}
    if Solver(solver).scheme is not None:
        figures["residuals"] = None
    return Chain(sigmas, latents, scaling, ModelCard("SD15", name, ()), positive=[],
                 solver=Solver(solver), **{**figures, **fields})
