"""Two walks as a pair, with the same noise: an edit without inversion (FlowEdit, InfEdit)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
# How much of its way the edit still has before it, at the next level, as a share of the levels'
# own: all (FlowEdit, 2412.08629), none (InfEdit's DDCM, 2312.04965).
PATHS = {"smooth": 1.0, "direct": 0.0}


def walk_pair(
    target: Model,
    source: Model,
    photo: Tensor,
    sigmas: Tensor,
    noised: Callable[[int], Tensor],
    clean_share: Callable[[float], float],
    path: str = "smooth",
    average: int = 1,
    mask: Tensor | None = None,
    callback: Callable[[dict], None] | None = None,
) -> Tensor:
    """The photo as the target's prompt wants it, [B, C, H, W], at the last of the sigmas.

    At every step the source's model sees the photo under noise, x_s, and the target's the same
    with the edit so far, x_t = x_s + (edit - photo). Their clean predictions' difference leads to
    goal = photo + D_target(x_t) - D_source(x_s), and the step ends at goal + keep (next / sigma)
    (edit - goal), where keep is 1 for FlowEdit's Euler step and 0 for DDCM. Of a flow and of an
    eps model that is the same line. DDCM's edit is a clean picture, of which a flow's x_t holds
    clean_share(sigma) and an eps model's all; FlowEdit's lies in x_t as it is.

    target, source: (x [B, C, H, W], sigma [B]) -> denoised. photo: clean, in the model's latent
    space. sigmas: [S + 1], falling. noised(i): a latent x_s of step i, anew whenever it is asked;
    the latents of the photo's own chain make it plain sampling from the inverted start.
    clean_share(sigma): of a clean latent in one at that level, as `Scaling` has it.
    path: one of PATHS. average: differences a step, of as many x_s, that it takes the mean of.
    mask: [1 or B, 1, H, W] within 0 and 1, 1 where the edit may be.
    Cost: 2 S average model calls; three latents are held.
    """
    keep, levels = PATHS[path], sigmas.tolist()
    # The change alone, from 0: where both predictions are the same the photo stays, bit for bit.
    change = torch.zeros_like(photo)
    for i, (sigma, following) in enumerate(zip(levels, levels[1:])):
        level, lead = photo.new_full([len(photo)], sigma), torch.zeros_like(photo)
        there = change if keep else clean_share(sigma) * change
        for _ in range(average):
            x = noised(i)
            lead = lead + (target(x + there, level) - source(x, level)) / average
        change = lead + keep * (following / sigma) * (change - lead)
        if mask is not None:
            change = change * mask
        if callback is not None:
            edit = photo + change
            callback({"x": edit, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": edit})
    return photo + change
