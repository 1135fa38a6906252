"""`python tests`: from a fresh clone to a tested pack, on every ComfyUI there is.

Finds the hosts, makes the virtual environment, brings a browser, checks the style with ruff, then
runs pytest once: each host gets a worker of its own, and every worker runs every test that depends
on its host; the others run on one of them. The newest host comes first: it computes attention as it
chooses to on a CPU, the others with PyTorch's, as most GPUs do. Further arguments go to pytest:
`python tests -k parity -x`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
sys.path.insert(0, str(REPO / "harness"))

import environment
import frontend
import hosts


def main(arguments: list[str]) -> int:
    try:
        found = sorted(hosts.find_hosts(), key=release, reverse=True)
        python = environment.ensure(environment.TEST_TOOLS, found)
    except (hosts.HostError, environment.SetupError) as error:
        print(f"python tests: {error}", file=sys.stderr)
        return 2
    for number, host in enumerate(found):
        print(f"[tests] worker gw{number} runs on {host}", flush=True)
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    if browser := frontend.bring_browser(python):
        settings[frontend.BROUGHT] = browser
    ruff = [str(python), "-m", "ruff", "check", "--output-format", "concise", str(REPO)]
    style = subprocess.run(ruff, check=False).returncode
    if style:
        settings["RIVAL_TESTS_PROBLEM"] = "RUFF FOUND PROBLEMS, listed at the top"
    sys.stdout.flush()
    command = [str(python), "-m", "pytest", "--rootdir", str(TESTS), "-c",
               str(TESTS / "pytest.ini"), *each_host(found), *arguments]
    if not any(Path(argument.split("::")[0]).exists() for argument in arguments):
        command.append(str(TESTS))
    tests = subprocess.run(command, env=settings, check=False).returncode
    return tests or style


def release(host: hosts.Host) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", host.version)]


def each_host(found: list[hosts.Host]) -> list[str]:
    """pytest-xdist's arguments for one worker a host, all of them running all tests."""
    if not found:
        return []
    workers = [f"popen//env:COMFYUI_PATH={host.path}//env:OMP_NUM_THREADS=1" for host in found]
    workers[1:] = [f"{worker}//env:RIVAL_TESTS_ATTENTION=pytorch" for worker in workers[1:]]
    return ["-p", "xdist", "--dist", "each", *(part for w in workers for part in ("--tx", w))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
