"""A LoRA for the tiny SD1.5: as a file's content, as hooks, and in the weights for good."""

from __future__ import annotations

import tiny
import torch
from composing import model_of, remembered

RANK, ALPHA = 4, 2.0
STRENGTHS = {0.0: 0.5, 0.5: 1.2}  # a schedule: from this part of it on
CHANGED = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_k", "ff.net.2")


@remembered
def lora(seed: int = 11) -> dict[str, torch.Tensor]:
    """A LoRA file's content: low-rank changes of self- and cross-attention and of feed-forward."""
    generator, content = torch.Generator().manual_seed(seed), {}
    for name, module in model_of("sd15").model.named_modules():
        if name.endswith(CHANGED):
            rows, columns = module.weight.shape
            content[f"{name}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator) / 2
            down = torch.randn(RANK, columns, generator=generator)
            content[f"{name}.lora_down.weight"] = down / columns**0.5
            content[f"{name}.alpha"] = torch.tensor(ALPHA)
    return content


@remembered
def changed_for_good(strength: float, seed: int = 11):
    """The tiny model with the LoRA in its weights."""
    model = tiny.build("sd15")
    with torch.no_grad():
        for name, module in model.model.named_modules():
            if name.endswith(CHANGED):
                up, down = (lora(seed)[f"{name}.lora_{part}.weight"] for part in ("up", "down"))
                module.weight += strength * (ALPHA / RANK) * (up @ down)
    return model


def with_lora(model, strength: float = 0.8, seed: int = 11):
    """LoraLoader. It changes the weights in place while it is loaded: no model that is shared."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora(seed), strength, 0.0)[0]


def hook_lora(strengths: dict[float, float], seed: int = 11):
    """The LoRA as HOOKS; strengths: from which part of the schedule on it has which."""
    import comfy.hooks

    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in strengths.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    hooks = comfy.hooks.create_hook_lora(lora(seed), 1.0, 0.0)
    hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def hooked(conditioning: list, hooks) -> list:
    """The CONDITIONING with these hooks, as Cond Set Props gives it."""
    import comfy.hooks

    return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks)


def strength_at(place: int, chain, strengths: dict[float, float] = STRENGTHS) -> float:
    """In a chain of 5 steps, t = 801 and 601 come before the middle, 401, 201 and 1 after it."""
    early, *late = strengths.values()
    return early if place % len(chain.sigmas) >= 4 or not late else late[0]


def state(model) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}
