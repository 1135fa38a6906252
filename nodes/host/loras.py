"""LoRA that come with a conditioning (HOOKS), at the strength that a sigma asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.hooks
from comfy.hooks import HookGroup, HookKeyframe, HookKeyframeGroup
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def hooks_of(conditioning: Any) -> list:
    """The hooks of a CONDITIONING, or of none."""
    groups = [options.get("hooks") for _, options in conditioning or []]
    return [hook for group in groups if group is not None for hook in group.hooks]


def are_loras(conditioning: Any) -> bool:
    """Whether its hooks only change weights: those of other kinds act on more than its rows."""
    return all(isinstance(hook, comfy.hooks.WeightHook) for hook in hooks_of(conditioning))


def register_loras(model: ModelPatcher, hooks: list) -> ModelPatcher:
    """A clone that can take on the LoRA hooks of a conditioning which its sampler never sees."""
    if not hooks:
        return model
    if hasattr(model, "is_dynamic") and model.is_dynamic():
        model = model.get_non_dynamic_delegate()  # as ComfyUI does for hooks that it sees
    model, registered = model.clone(), HookGroup()
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    for hook in hooks:
        if hook.hook_ref not in model.hook_patches:
            hook.add_hook_patches(model, model.model_options, target, registered)
    return model


def keep_changed_weights(guider: Any) -> None:
    """Lets this run switch between weights without computing them anew.

    ComfyUI does so where it sees several groups of hooks; the exemplar's it does not see.
    """
    guider.model_patcher.set_hook_mode(comfy.hooks.EnumHookMode.MaxSpeed)


class ScheduledLoras:
    """LoRA hooks as a function of sigma alone, the same on the way up a chain and down it.

    ComfyUI's keyframes only move on as sigma falls, and are shared by all who hold the hooks.
    """

    def __init__(self, hooks: HookGroup, sigmas: Tensor):
        """sigmas: [S + 1], of the chain; a keyframe may be held for some of its steps."""
        own = hooks.clone()
        for hook in own.hooks:
            hook.hook_keyframe = hook.hook_keyframe.clone()
        self.hooks = own.hooks  # what ComfyUI initialises for the model
        self.group = own
        self.sigmas = sigmas.cpu().sort(descending=True).values
        self.strengths: list[float] | None = None
        self.current: HookGroup | None = None

    def at(self, model: Any, sigma: float) -> HookGroup:
        """The hooks at a constant strength; one object as long as the strength is the same."""
        strengths = [self.strength(hook.hook_keyframe, sigma) for hook in self.hooks]
        if strengths != self.strengths:
            if self.current is not None:
                model.current_patcher.clear_cached_hook_weights()
            self.strengths, self.current = strengths, self.group.clone()
            for hook, strength in zip(self.current.hooks, strengths):
                hook.hook_keyframe = HookKeyframeGroup()
                hook.hook_keyframe.add(HookKeyframe(strength))
        return self.current

    def strength(self, keyframes: HookKeyframeGroup, sigma: float) -> float:
        """ComfyUI's own choice, had the steps been walked down to this sigma."""
        keyframes, options = keyframes.clone(), {"sample_sigmas": self.sigmas}
        for step in [*self.sigmas[self.sigmas > sigma].tolist(), sigma]:
            keyframes.prepare_current_keyframe(step, options)
        return keyframes.strength


def schedule_loras(conds: dict[str, list[dict]], sigmas: Tensor) -> dict[str, list[dict]]:
    """Conditioning entries whose LoRA hooks wait for a sigma (`settle`)."""
    groups = {id(e["hooks"]): e["hooks"] for c in conds.values() for e in c if e.get("hooks")}
    loras = {key: ScheduledLoras(hooks, sigmas) for key, hooks in groups.items()}
    return {
        name: [{**e, "hooks": loras[id(e["hooks"])]} if e.get("hooks") else e for e in entries]
        for name, entries in conds.items()
    }


def settle(entries: list[dict], model: Any, sigma: float) -> list[dict]:
    """The entries with their scheduled LoRA at this sigma's strength; `model` is loaded."""
    return [{**e, "hooks": e["hooks"].at(model, sigma)} if e.get("hooks") else e for e in entries]


def follow_sigma(guider: Any, sigmas: Tensor) -> Callable[[float], None]:
    """What to call before each model call of a guider whose sigmas do not fall."""
    conds = schedule_loras(guider.conds, sigmas)

    def follow(sigma: float) -> None:
        guider.conds = {k: settle(c, guider.inner_model, sigma) for k, c in conds.items()}

    return follow
