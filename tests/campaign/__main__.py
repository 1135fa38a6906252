"""`python tests/campaign files graphs --count 1000 --seed 1`: the campaign's kinds, by hand.

Runs on every ComfyUI that `python tests` would find, one process each, prints how often which
outcome came, and ends with 1 if there was a fault. Without a kind all of them run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[0] = str(TESTS)  # in place of this folder, whose names would hide others'
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent / "harness")]

import environment
import hosts

KINDS = {  # and how many of each where --count does not say
    "files": 2000, "graphs": 100, "interrupts": 0, "memory": 0, "clients": 40,
}
IN_PROCESS = "--in-this-process"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/campaign", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="kind",
                        help=f"of {', '.join(KINDS)}; all without any")
    parser.add_argument("--count", type=int, help="how many; 0 is all there are of "
                        "interrupts and memory")
    parser.add_argument("--seed", type=int, default=1, help="of the first; number n has seed + n")
    parser.add_argument(IN_PROCESS, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def on_every_host() -> int:
    """This command anew in the tests' environment, once for each host, all at once."""
    try:
        found = hosts.find_hosts()
        python = environment.ensure(environment.TEST_TOOLS, found)
    except (hosts.HostError, environment.SetupError) as error:
        print(f"python tests/campaign: {error}", file=sys.stderr)
        return 2
    if not found:
        return 2
    command = [str(python), "-W", "ignore", str(TESTS / "campaign"), *sys.argv[1:], IN_PROCESS]
    running = [subprocess.Popen(command, env={**os.environ, "COMFYUI_PATH": str(host.path),
                                              "OMP_NUM_THREADS": "1"}) for host in found]
    return max(process.wait() for process in running)


def in_this_process(asked: argparse.Namespace) -> int:
    import in_process
    import torch

    (host,) = hosts.find_hosts()
    torch.set_num_threads(1)
    in_process.prepare_host(host.path)
    in_process.register_pack()
    faults = 0
    for kind in asked.kinds or KINDS:
        if importlib.util.find_spec(f"campaign.{kind}") is None:
            print(f"{kind}: MISSING, there is no tests/campaign/{kind}.py", flush=True)
            continue
        began, spent = time.monotonic(), sum(os.times()[:4])
        count = KINDS[kind] if asked.count is None else asked.count
        found = importlib.import_module(f"campaign.{kind}").run(count, asked.seed)
        faults += len(found["faults"])
        times = f"{time.monotonic() - began:.0f} s, {sum(os.times()[:4]) - spent:.0f} s of CPU"
        print(table(f"{kind} on ComfyUI {host.version}: {times}", found), flush=True)
    return 1 if faults else 0


def table(title: str, found: dict) -> str:
    counts = {**{name: n for name, n in found.items() if name != "faults"},
              "faults": len(found["faults"])}
    rows = [f"  {n:>9}  {name}" for name, n in counts.items()]
    return "\n".join([title, *rows, *(f"- {fault}" for fault in found["faults"])])


if __name__ == "__main__":
    asked = arguments()
    sys.exit(in_this_process(asked) if asked.in_this_process else on_every_host())
