# SPDX-License-Identifier: GPL-3.0-or-later
"""The official RIVAL algorithm (arXiv 2305.18729, its Stable Diffusion 1.5 script), as an oracle.

Written from the method's description alone, in the paper's own coordinates: variance-preserving
latents z, a table of cumulative alphas (abar) and integer timesteps t. It shares nothing with the
pack it checks: no sigmas, no samplers, no hooks of the host. It drives a bare ComfyUI
``UNetModel`` and injects by swapping the ``forward`` of its self-attention modules.

Three points differ from the script on purpose: gates compare the real t (the script counts calls
of 1000 // steps, which drifts where steps do not divide 1000 and never resets), all four rows run
whatever the guidance (the script drops to two at cfg <= 1 and stops injecting), and the
permutation is an argument (the script draws it from the global generator).

``mistakes`` switches on deliberate errors, so that tests can show that they would be noticed.
"""

import math
from contextlib import contextmanager

import torch

rows_per_step = 4  # [uncond R, uncond G, cond R, cond G]; R exemplar, G generated
TRAIN_STEPS = 1000

MISTAKES = frozenset(
    {
        "sigma0_end",  # the schedule's clean end is abar = 1 (sigma 0), not abar[0]
        "source_pairing",  # inversion asks the model at the timestep that the latent comes from
        "no_injection",  # plain self-attention throughout
        "concat_always",  # concatenation where replacement is due
        "replace_always",  # replacement where concatenation is due
        "gate_late",  # every gate sees the t of the step before, so it switches a step late
        "no_adain",  # no normalisation
        "adain_on_denoised",  # statistics transferred on the predicted clean latent, not on eps
        "adain_cond_before_guidance",  # ... on the conditional eps, before guidance
        "no_reset",  # the exemplar row keeps its own DDIM step, instead of the chain's latent
        "guided_exemplar",  # the exemplar's eps is guided like the generated one's
        "swap_halves",  # conditional rows read the unconditional exemplar, and vice versa
        "chain_lag",  # the exemplar is one chain level too noisy from the second step on
    }
)
CONTROL_MISTAKES = frozenset(  # these show with a ControlNet only
    {
        "control_exemplar",  # the ControlNet's residuals reach the exemplar's rows, too
        "control_cond_only",  # ... and the unconditional generated row has none
    }
)
HOLE_MISTAKES = frozenset(  # these show with a hole only
    {
        "known_lag",  # what is known outside it is one level too noisy
        "known_late",  # nothing is pasted before the first model call
    }
)


def _checked(mistakes):
    mistakes = frozenset(mistakes)
    if unknown := mistakes - MISTAKES - CONTROL_MISTAKES - HOLE_MISTAKES:
        raise ValueError(f"unknown mistakes: {sorted(unknown)}")
    return mistakes


def alphas_cumprod(start=0.00085, end=0.012, n=TRAIN_STEPS):
    """Stable Diffusion's table: scaled-linear betas."""
    betas = torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).to(torch.float32)


def timesteps(steps):
    """Leading spacing, offset 1, ascending: 1, 21, ..., 981 for 50 steps."""
    return [(TRAIN_STEPS // steps) * i + 1 for i in range(steps)]


def levels(steps, abar=None, mistakes=()):
    """The chain's steps + 1 levels as (t, abar at t), clean to noisy. The clean one is t = 0."""
    abar = alphas_cumprod() if abar is None else abar
    end = 1.0 if "sigma0_end" in mistakes else float(abar[0])
    return [(0, end)] + [(t, float(abar[t])) for t in timesteps(steps)]


# Model and DDIM


def predict_eps(unet, z, t, a, context, y=None, prediction="eps", control=None):
    """The predicted noise of every row of z at timestep t, a = abar[t]."""
    t = torch.full((z.shape[0],), float(t), device=z.device)
    out = unet(z, t, context=context, y=y, control=control, transformer_options={})
    if prediction == "v":
        return math.sqrt(a) * out + math.sqrt(1.0 - a) * z
    if prediction != "eps":
        raise ValueError(f"unknown prediction: {prediction}")
    return out


def to_denoised(z, eps, a):
    return (z - math.sqrt(1.0 - a) * eps) / math.sqrt(a)


def ddim_step(z, eps, a, a_next):
    """DDIM (eta = 0) from level a to level a_next, in either direction."""
    return math.sqrt(a_next) * to_denoised(z, eps, a) + math.sqrt(1.0 - a_next) * eps


@torch.no_grad()
def invert(unet, z0, context, steps, abar=None, prediction="eps", y=None, mistakes=()):
    """The exemplar's chain: steps + 1 latents, clean to noisy; one unguided row.

    Target pairing: the latent of the level before goes in with the timestep of the level to reach.
    z0 counts as lying at abar[0].
    """
    mistakes = _checked(mistakes)
    lv = levels(steps, abar, mistakes)
    chain = [z0]
    for (t_from, a_from), (t_to, a_to) in zip(lv[:-1], lv[1:], strict=True):
        t, a = (t_from, a_from) if "source_pairing" in mistakes else (t_to, a_to)
        eps = predict_eps(unet, chain[-1], t, a, context, y, prediction)
        chain.append(ddim_step(chain[-1], eps, a_from, a_to))
    return chain


def shuffle(z, perm):
    """z_G[:, :, p] = z_R[:, :, perm[p]] over flattened positions; all channels move together."""
    return z.flatten(2)[:, :, perm].reshape(z.shape)


def shuffle_hole(z, perm, hole):
    """z with the positions inside a hole (H x W, bool) permuted among themselves.

    perm permutes all positions; the hole's are filled, in reading order, in the order in which
    perm names them.
    """
    flat, out, inside = z.flatten(2), z.flatten(2).clone(), hole.flatten().tolist()
    sources = [p for p in perm.tolist() if inside[p]]
    targets = [p for p, is_in in enumerate(inside) if is_in]
    for target, source in zip(targets, sources, strict=True):
        out[:, :, target] = flat[:, :, source]
    return out.reshape(z.shape)


def adain(eps_g, eps_r):
    """eps_g with eps_r's spatial mean and unbiased variance (+ 1e-5), channel by channel."""
    mean_g, mean_r = (e.mean(dim=(2, 3), keepdim=True) for e in (eps_g, eps_r))
    var_g, var_r = (e.var(dim=(2, 3), keepdim=True, unbiased=True) for e in (eps_g, eps_r))
    return (eps_g - mean_g) / (var_g + 1e-5).sqrt() * (var_r + 1e-5).sqrt() + mean_r


def attention_mode(t, t_align=600, editing_early_steps=1000, mistakes=()):
    """plain, replace or concat at timestep t. The script's attention counter is t - 1."""
    if "no_injection" in mistakes or t - 1 > editing_early_steps:
        return "plain"
    if "replace_always" in mistakes:
        return "replace"
    if "concat_always" in mistakes:
        return "concat"
    return "replace" if t - 1 > t_align else "concat"


def adain_active(t, t_early=600, mistakes=()):
    """Whether eps is normalised at t: the real t here, and no regard to early steps."""
    return t > t_early and "no_adain" not in mistakes


# Cross-image self-attention


def key_rows(row, mode, mistakes=()):
    """Whose keys and values a row of the batch reads."""
    exemplar = row - row % 2  # row R of the same half
    if row == exemplar or mode == "plain":
        return [row]
    if "swap_halves" in mistakes:
        exemplar = 2 - exemplar
    return [exemplar] if mode == "replace" else [exemplar, row]


def softmax_attention(q, k, v, heads):
    """softmax(q k^T / sqrt(d)) v for one row; q, k, v are tokens x (heads * d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def cross_image_forward(attn, mode, mistakes=()):
    """A forward for the self-attention module attn that reads across the rows of the batch."""

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        if x.shape[0] != rows_per_step or any(o is not None for o in (context, value, mask)):
            raise ValueError("expected plain self-attention over four rows")
        q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
        out = []
        for row in range(rows_per_step):
            rows = key_rows(row, mode, mistakes)
            keys, values = torch.cat([k[r] for r in rows]), torch.cat([v[r] for r in rows])
            out.append(softmax_attention(q[row], keys, values, attn.heads))
        return attn.to_out(torch.stack(out))

    return forward


def self_attentions(unet):
    """The attn1 of every transformer block; cross-attention is never touched."""
    blocks = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    return [b.attn1 for b in blocks if not b.disable_self_attn]


@contextmanager
def injected(unet, mode, mistakes=()):
    """Cross-image attention in all self-attentions of unet, undone on the way out."""
    attns = self_attentions(unet)
    before = [vars(attn).get("forward") for attn in attns]
    try:
        for attn in attns:
            attn.forward = cross_image_forward(attn, mode, mistakes)
        yield
    finally:
        for attn, forward in zip(attns, before, strict=True):
            vars(attn).pop("forward", None)
            if forward is not None:
                attn.forward = forward


# Sampling


def generated_only(residuals, mistakes=()):
    """A ControlNet's residuals for the four rows, zero for the exemplar's."""
    zero = [0, 1, 2] if "control_cond_only" in mistakes else [0, 2]
    for residual in [r for values in residuals.values() for r in values if r is not None]:
        residual[[] if "control_exemplar" in mistakes else zero] = 0
    return residuals


@torch.no_grad()
def sample(unet, chain, z_start, uncond_r, uncond_g, cond_r, cond_g, steps, cfg, t_align=600,
           t_early=600, editing_early_steps=1000, abar=None, prediction="eps", y=None,
           control_net=None, hole=None, mistakes=(), trace=None):  # fmt: skip
    """One variation, from z_start (1 x C x H x W) at the noisiest level to the final latent z.

    uncond_r is the empty prompt and uncond_g the negative one; cond_r is what the exemplar was
    inverted with and cond_g the target; each 1 x tokens x width. y, for SDXL, has four rows.
    control_net(z, t, context) gives what a ControlNet adds to those rows of the UNet's blocks.
    With a hole (H x W, bool) the exemplar's latent is pasted outside it, from the start on: the
    script pastes after a step only, so that its first call sees a shuffled image.
    If trace is a list, every step appends what it did and the latents that it left.
    """
    mistakes = _checked(mistakes)
    lv = levels(steps, abar, mistakes)[::-1]  # noisy to clean
    if len(chain) != len(lv):
        raise ValueError(f"a chain of {len(lv)} latents is needed for {steps} steps")
    context = torch.cat([uncond_r, uncond_g, cond_r, cond_g])
    z_r, z_g = chain[-1], z_start
    if hole is not None and "known_late" not in mistakes:
        z_g = torch.where(hole, z_g, z_r)
    for i, ((t, a), (_, a_next)) in enumerate(zip(lv[:-1], lv[1:], strict=True)):
        t_gate = t + TRAIN_STEPS // steps if "gate_late" in mistakes else t
        mode = attention_mode(t_gate, t_align, editing_early_steps, mistakes)
        normalise = adain_active(t_gate, t_early, mistakes)

        # 1. the model on four rows
        with injected(unet, mode, mistakes):
            z = torch.cat([z_r, z_g, z_r, z_g])
            control = control_net and generated_only(control_net(z, t, context), mistakes)
            eps = predict_eps(unet, z, t, a, context, y, prediction, control)
        u_r, u_g, c_r, c_g = eps.chunk(rows_per_step)

        # 2. the exemplar is unguided, the generated row is guided
        eps_r = u_r + cfg * (c_r - u_r) if "guided_exemplar" in mistakes else c_r
        if normalise and "adain_cond_before_guidance" in mistakes:
            c_g = adain(c_g, eps_r)
        eps_g = u_g + cfg * (c_g - u_g)

        # 3. early on, the guided noise takes the exemplar's statistics
        if normalise and "adain_on_denoised" in mistakes:
            denoised = adain(to_denoised(z_g, eps_g, a), to_denoised(z_r, eps_r, a))
            eps_g = (z_g - math.sqrt(a) * denoised) / math.sqrt(1.0 - a)
        elif normalise and "adain_cond_before_guidance" not in mistakes:
            eps_g = adain(eps_g, eps_r)

        # 4. DDIM on both rows
        z_g, z_r_own = ddim_step(z_g, eps_g, a, a_next), ddim_step(z_r, eps_r, a, a_next)

        # 5. the exemplar goes back onto its chain, at the level just reached
        z_r = chain[-i - 1] if "chain_lag" in mistakes else chain[-i - 2]
        if "no_reset" in mistakes:
            z_r = z_r_own

        # 6. inpainting: what is known is the exemplar's
        if hole is not None:
            z_g = torch.where(hole, z_g, chain[-i - 1] if "known_lag" in mistakes else z_r)
        if trace is not None:
            trace.append({"t": t, "mode": mode, "adain": normalise, "z_r": z_r, "z_g": z_g})
    return z_g
