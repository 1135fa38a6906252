"""A benchmark that runs inside a ComfyUI of its own process, on a GPU where there is one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "harness"))

import environment
import hosts
import in_process


def parser_of(description: str) -> argparse.ArgumentParser:
    """What every such benchmark asks for."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--comfyui", help="the ComfyUI folder; default: as the tests find it")
    return parser


def start(
    run: Callable[[hosts.Host, argparse.Namespace], None],
    options: argparse.Namespace,
    **settings: bool,
) -> int:
    """Runs it where its requirements are, in another process if this one lacks them.

    settings: of in_process.prepare_host.
    """
    found = [hosts.read_host(Path(options.comfyui))] if options.comfyui else hosts.find_hosts()
    if not found or found[0] is None:
        print("no ComfyUI was found: give its folder with --comfyui", file=sys.stderr)
        return 1
    capable = environment.capable_interpreter((), found[:1])
    python = capable or environment.ensure((), found[:1])
    if not capable and Path(sys.prefix).resolve() != environment.VENV.resolve():
        return os.spawnv(os.P_WAIT, python, [str(python), *sys.argv])
    import torch

    in_process.prepare_host(found[0].path, cpu=not torch.cuda.is_available(), **settings)
    in_process.register_pack()
    with torch.inference_mode():
        run(found[0], options)
    return 0
