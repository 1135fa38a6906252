"""Out of memory at every model call and in every attention, once or from there on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

import spies

from . import executing, scenes, watching
from .interrupts import FAMILIES, same

SCENES = ("Invert anderson", "Patch, RIVAL KSampler", "Patch cached", "Patch int8",
          "handed over", "SamplerCustomAdvanced", "Blended Guidance", "Reconstruct")
BY_ATTENTION = ("Invert anderson", "Patch, RIVAL KSampler", "Patch cached",
                "SamplerCustomAdvanced")
ADVICE = "fewer images"


class Device:
    """A device with too little memory for the n-th of its calls, or for that and all after it."""

    def __init__(self, number: int | None = None, for_good: bool = False):
        self.number, self.for_good = number, for_good
        self.calls: list[bool] = []  # whether each was the exemplar's
        self.is_exemplar = False

    def use(self) -> None:
        import comfy.model_management

        self.calls.append(self.is_exemplar)
        place = len(self.calls)
        if self.number is not None and (
                place == self.number or (self.for_good and place > self.number)):
            raise comfy.model_management.OOM_EXCEPTION("no memory left")

    @property
    def failed_at_exemplar(self) -> bool:
        return self.calls[self.number - 1]


@contextmanager
def watched(device: Device, by_attention: bool) -> Iterator[None]:
    """The model's calls, or its attention layers' calls, use this device."""
    from comfyui_rival.nodes.steering.recorder import Recorder

    from . import stand_ins

    base = stand_ins.model("sd15").model
    original = base._apply_model

    def call(x, t, *args, **kwargs):
        options = kwargs.get("transformer_options") or (args[3] if len(args) > 3 else {})
        device.is_exemplar = isinstance(options.get("rival"), Recorder)
        if not by_attention:
            device.use()
        return original(x, t, *args, **kwargs)

    layers = [module for name, module in base.named_modules() if name.endswith(("attn1", "attn2"))]
    hooks = [layer.register_forward_pre_hook(lambda *_: device.use())
             for layer in layers if by_attention]
    base._apply_model = call
    try:
        yield
    finally:
        del base._apply_model
        for hook in hooks:
            hook.remove()


class Scene:
    """One graph on a device, whose calls are counted once."""

    def __init__(self, name: str, by_attention: bool, executor: executing.Executor):
        self.name, self.by_attention = name, by_attention
        self.prompt = scenes.SCENES[name]()
        device = Device()
        self.expected = self.run(device, executor)
        self.places = len(device.calls)
        assert self.expected.kind == "ran", f"{name}: {self.expected}"

    def run(self, device: Device, executor: executing.Executor) -> executing.Outcome:
        executor.forget()
        with watched(device, self.by_attention):
            return executor.run(self.prompt)

    def short_of_memory(self, place: int, for_good: bool, executor) -> tuple[str, list[str]]:
        """A run whose memory ends, then one with enough; what is wrong."""
        device = Device(place, for_good)
        outcome, again = self.run(device, executor), executor.run(self.prompt)
        name, found = judged(outcome, device, self.expected)
        samples = {**outcome.samples, **again.samples}
        if again.kind != "ran" or not same(samples, self.expected.samples):
            found.append(f"the next run is not as before: {again}")
        return name, found


def judged(outcome: executing.Outcome, device: Device, expected) -> tuple[str, list[str]]:
    """Once, in the photo's own row: tried again. Else the host's error, with advice if ours."""
    import comfy.model_management

    ours = device.failed_at_exemplar
    if ours and not device.for_good:
        right = outcome.kind == "ran" and same(outcome.samples, expected.samples)
        return "tried again", [] if right else [f"tried again, it is not right: {outcome}"]
    if outcome.error != comfy.model_management.OOM_EXCEPTION.__name__:
        return "another error", [f"it should be the host's out of memory: {outcome}"]
    if ours and ADVICE not in outcome.text:
        return "without advice", [f"our call, but no advice: {outcome}"]
    return ("advice" if ours else "the host's own error"), []


def run(count: int, seed: int, by_call=SCENES, by_attention=BY_ATTENTION) -> dict:
    """count: how many of all places, from number `seed` on; 0 means all of them."""
    outcomes, faults = Counter(), []
    # A photo that rides and one that runs by itself give the same but for rounding.
    apart = spies.photos_apart()
    with apart, executing.executor() as executor, watching.watch() as watch:
        watch.begin(FAMILIES)
        found = [Scene(name, False, executor) for name in by_call]
        found += [Scene(name, True, executor) for name in by_attention]
        every = places(found)
        for number in range(seed, seed + (min(count, len(every)) or len(every))):
            scene, place, for_good = every[number % len(every)]
            name, wrong = scene.short_of_memory(place, for_good, executor)
            outcomes[name] += 1
            what = "attention" if scene.by_attention else "model call"
            where = f"{scene.name}, {what} {place} of {scene.places}, for good: {for_good}"
            replay = f"python tests/campaign memory --count 1 --seed {number}"
            wrong += watch.faults(FAMILIES)
            faults += [f"{where}: {fault}\n    {replay}" for fault in wrong]
    return {**outcomes, "places": len(every), "faults": faults}


def places(found: list[Scene]) -> list[tuple[Scene, int, bool]]:
    """The first call of every scene, then the second of every scene, and so on.

    Of a call's attention layers for good is what the call's own is: those end once only.
    """
    rows = zip_longest(*(
        [(scene, place, for_good) for place in range(1, scene.places + 1)
         for for_good in ((False,) if scene.by_attention else (False, True))]
        for scene in found))
    return [place for row in rows for place in row if place is not None]
