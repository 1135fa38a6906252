"""`python demo`: from a fresh clone to variations of pictures.

Makes the environment it needs, and finds or clones a ComfyUI, runs it headless and queues the
variation workflow over its HTTP API. Where there is none, the pack's second engine makes the same
pictures with the demo's own model. `python demo --help` lists the options.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent
sys.path[1:1] = [str(DEMO.parent / "harness"), str(DEMO / "model")]

import environment
import hosts
from errors import DemoError
from options import COMFYUI, DIFFUSERS, Options, parse


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server, too
    # Threads that wait by spinning make a CPU run three times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = parse(arguments)
        host = find_host(options)
        needs = {"hosts": [host]} if host else {"extra": environment.ENGINE_NEEDS}
        python = environment.capable_interpreter(**needs) or environment.ensure(**needs)
        if not is_running_in(python):
            chosen = ["--comfyui", str(host.path)] if host else ["--engine", DIFFUSERS]
            return run_in(python, [*arguments, *chosen])
        run(options, host, python)
    except (DemoError, hosts.HostError, environment.SetupError, OSError) as error:
        print(f"python demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npython demo: stopped", file=sys.stderr)
        return 130
    return 0


def run(options: Options, host: hosts.Host | None, python: Path) -> None:
    import assemble
    import session

    if host:
        from comfyui_engine import ComfyUIEngine

        engine = ComfyUIEngine(host, python)
    else:
        from diffusers_engine import DiffusersEngine

        engine = DiffusersEngine(options.model)
    try:
        session.run(options, engine)
    except assemble.MissingWeights as error:
        raise DemoError(str(error)) from error


def find_host(options: Options) -> hosts.Host | None:
    """The ComfyUI to use, None for the other engine."""
    if options.engine == DIFFUSERS:
        return None
    if options.comfyui is not None:
        host = hosts.read_host(options.comfyui)
        if host is None:
            raise DemoError(f"there is no ComfyUI in {options.comfyui} (no main.py of one)")
        return host
    found = hosts.find_hosts()
    if not found and options.checkpoint is not None:
        raise DemoError("--checkpoint needs a ComfyUI and there is none: give it with --comfyui")
    if not found and options.engine == COMFYUI:
        raise DemoError("there is no ComfyUI: give its folder with --comfyui")
    return found[0] if found else None


def is_running_in(python: Path) -> bool:
    if python == Path(sys.executable):
        return True
    return Path(sys.prefix).resolve() == python.parent.parent.resolve()


def run_in(python: Path, arguments: list[str]) -> int:
    """This demo again, with the Python that has everything."""
    command = [str(python), str(DEMO), *arguments]
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(python, command)
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
