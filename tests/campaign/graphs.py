"""Random graphs through the host's validator and executor, vanilla again after each."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from . import bypassing, executing, growing, stand_ins, watching

FAMILIES = ("sd15",) * 20 + stand_ins.FAMILIES
PACK = Path(__file__).resolve().parents[2]
CHAIN = "campaign"  # the file that graphs may load


def run(count: int, seed: int) -> dict:
    """Graph i is the one of seed + i, so any of them can be had alone."""
    outcomes, faults = Counter(), []
    with executing.executor() as executor, watching.watch() as watch:
        save_chain()
        for number in range(seed, seed + count):
            prompt = growing.grow(random.Random(number), FAMILIES)
            families = {node["inputs"]["family"] for node in prompt.values()
                        if node["class_type"] == "CampaignModel"}
            watch.begin(families)
            kind, found = judged(prompt, executor)
            outcomes[kind] += 1
            found += watch.faults(families)
            executor.forget()
            replay = f"python tests/campaign graphs --count 1 --seed {number}"
            faults += [f"{fault}\n    {replay}\n    {json.dumps(prompt)}" for fault in found]
    return {**outcomes, "faults": faults}


def judged(prompt: dict, executor: executing.Executor) -> tuple[str, list[str]]:
    """The outcome's name, and what is wrong with it."""
    outcome = executor.run(prompt)
    if outcome.kind in ("invalid", "refused"):
        return outcome.kind, []
    if outcome.kind == "failed":
        if outcome.is_raised_by(PACK):
            return "failed", [str(outcome)]
        if outcome.is_anothers(PACK):
            return "another's node fails by itself", []
        without = bypass(prompt, executor)
        if without.kind == "failed":
            return "fails without the pack, too", []
        return "failed", [f"{outcome}; without the pack {without}"]
    if all(samples.isfinite().all() for kept in outcome.samples.values() for samples in kept):
        return "ran", []
    if any("RIVAL" in line and "nan" in line.lower() for line in outcome.log):
        return "ran to NaN with a word", []
    without = bypass(prompt, executor)
    sound = all(s.isfinite().all() for kept in without.samples.values() for s in kept)
    if without.kind == "ran" and sound:
        return "ran to NaN", ["NaN without a word, which it is not without the pack"]
    return "NaN without the pack, too", []


def bypass(prompt: dict, executor: executing.Executor) -> executing.Outcome:
    executor.forget()
    return executor.run(bypassing.bypassed(prompt))


def save_chain() -> None:
    """A chain of the tiny SD1.5 in the input folder."""
    import folder_paths
    import graph
    from comfyui_rival.rival_core.chain import file as chain_file

    model = stand_ins.model("sd15")
    chain, _ = graph.invert(model, stand_ins.photo("photo", 1, "sd15"),
                            stand_ins.prompt("sd15", 0), steps=5)
    path = Path(folder_paths.get_input_directory(), f"{CHAIN}.safetensors")
    path.unlink(missing_ok=True)
    chain_file.save(chain, path, None)
