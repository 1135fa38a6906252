"""benchmarks/step_cost.py's figures in Markdown."""

from __future__ import annotations

import math

MADE = (1, 4, 16)
MB = 1e6


def heading(host, model, options) -> str:
    dtype = str(model.model.get_dtype()).removeprefix("torch.")
    clock = "processor" if options.processor_time else "clock"
    attention = ", PyTorch attention" if options.pytorch_attention else ""
    return (f"{host}, {type(model.model.model_config).__name__} in {dtype}, {options.size} px"
            f"{attention}, {options.rounds} rounds, {clock} seconds")


def steps(costs: dict) -> str:
    """What a step takes, a row for each kind and batch size."""
    lines = ["| variations at once | | replace s | concat s | whole run s | / plain | / official "
             "| memory MB | kept MB |", "|---" * 9 + "|"]
    one = find(costs, "official", 1)  # None where it has no such algorithm
    for n in sorted({n for kind, n in costs if kind.name == "plain"}):
        plain = find(costs, "plain", n).seconds
        official = math.inf if one is None else n * one.seconds
        of_size = {kind: cost for (kind, m), cost in costs.items()
                   if m == n and kind.name not in ("inversion", "official")}
        for kind, cost in of_size.items():
            peak = "" if cost.peak is None else f"{cost.peak / MB:.0f}"
            kept = f"{cost.stored / MB:.0f}" if cost.stored else ""
            cells = [n, kind, *(f"{s:.2f}" for s in cost.phases.values()), f"{cost.seconds:.2f}",
                     f"{cost.seconds / plain:.2f}",
                     "" if one is None else f"{cost.seconds / official:.2f}", peak, kept]
            lines.append(row(cells))
        if one is None:
            continue
        seconds = [f"{n * s:.2f}" for s in one.phases.values()]
        lines.append(row([n, "official", *seconds, f"{official:.2f}", f"{official / plain:.2f}",
                          "1.00", "", ""]))
    return "\n".join(lines)


def row(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def finished(costs: dict, steps: int, calls: int) -> str:
    """Seconds a variation, made one at a time, the inversion and the first run shared by all.

    calls: of the inversion. Where there are more than steps it was exact, and RIVAL Invert may
    have kept the features, so that the first run is as those after it.
    """
    single = {kind: cost for (kind, n), cost in costs.items() if n == 1}
    if not {"plain", "live"} <= {kind.name for kind in single}:
        return ""
    plain, live = (steps * find(costs, name, 1).seconds for name in ("plain", "live"))
    inversion = calls * find(costs, "inversion", 1).seconds
    lines = [f"Seconds a finished variation of {steps} steps, made one at a time, with its share "
             f"of the inversion ({calls} calls, {inversion:.1f} s) and, where features are kept, "
             "of the first run:", "",
             row(["", *(f"of {made} (/ plain)" for made in MADE)]), "|---" * (1 + len(MADE)) + "|"]
    for kind, cost in single.items():
        if kind.name == "inversion":
            continue
        run, once = steps * cost.seconds, 0 if kind.name == "plain" else inversion
        kept = kind.name.startswith("cached")
        firsts = {kind: live if kept else run}
        if kept and calls > steps:
            firsts[f"{kind}, from RIVAL Invert"] = run
        for name, first in firsts.items():
            shares = [run + (once + first - run) / made for made in MADE]
            lines.append(row([name, *(f"{s:.1f} ({s / plain:.2f})" for s in shares)]))
    return "\n".join(lines)


def find(costs: dict, name: str, n: int):
    found = (cost for (kind, m), cost in costs.items() if kind.name == name and m == n)
    return next(found, None)
