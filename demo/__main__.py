"""`python demo`: from a fresh clone to variations of a photo, made by a real ComfyUI.

Makes the environment it needs, finds or clones a ComfyUI, runs it headless and queues the
variation workflow over its HTTP API. `python demo --help` lists the options.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent
sys.path.insert(0, str(DEMO.parent / "harness"))

import environment
import hosts
from errors import DemoError
from options import Options, parse


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server, too
    # Threads that wait by spinning make a CPU run three times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = parse(arguments)
        host = find_host(options)
        python = environment.capable_interpreter(hosts=[host]) or environment.ensure(hosts=[host])
        if not is_running_in(python):
            return run_in(python, [*arguments, "--comfyui", str(host.path)])
        import session

        session.run(options, host, python)
    except (DemoError, hosts.HostError, environment.SetupError, OSError) as error:
        print(f"python demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npython demo: stopped", file=sys.stderr)
        return 130
    return 0


def find_host(options: Options) -> hosts.Host:
    if options.comfyui is not None:
        host = hosts.read_host(options.comfyui)
        if host is None:
            raise DemoError(f"there is no ComfyUI in {options.comfyui} (no main.py of one)")
        return host
    found = hosts.find_hosts()
    if not found:
        raise DemoError("there is no ComfyUI: give its folder with --comfyui")
    return found[0]


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
