"""Finds the ComfyUI checkouts to run on. Standard library only."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CLONE = REPO / ".cache" / "ComfyUI"
SOURCE = "https://github.com/Comfy-Org/ComfyUI"


class HostError(RuntimeError):
    """COMFYUI_PATH names a folder that is not a ComfyUI."""


@dataclass(frozen=True)
class Host:
    """One ComfyUI checkout."""

    path: Path
    version: str

    def __str__(self) -> str:
        return f"ComfyUI {self.version} ({self.path})"


def find_hosts(clone: bool = True) -> list[Host]:
    """The first of these that yields any: COMFYUI_PATH, the enclosing ComfyUI, ~/ComfyUI*, a clone.

    An empty list means that none was found; the reason has then been printed.
    """
    found = _from_variable() or _enclosing() or _from_home() or _existing([CLONE])
    if found or not clone:
        return found
    return _cloned()


def read_host(path: Path) -> Host | None:
    """The host at this path, or None if there is no ComfyUI."""
    version_file = path / "comfyui_version.py"
    if not (path / "main.py").is_file() or not version_file.is_file():
        return None
    version = re.search(r'__version__\s*=\s*"([^"]+)"', version_file.read_text(encoding="utf-8"))
    return Host(path.resolve(), version[1]) if version else None


def _from_variable() -> list[Host]:
    paths = [p for p in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if p.strip()]
    hosts = []
    for path in paths:
        host = read_host(Path(path).expanduser())
        if host is None:
            raise HostError(f"COMFYUI_PATH names {path}, which is not a ComfyUI folder"
                            " (no main.py and comfyui_version.py in it)")
        hosts.append(host)
    return hosts


def _enclosing() -> list[Host]:
    """The ComfyUI whose custom_nodes folder this pack was installed in."""
    folder = Path(os.path.abspath(__file__)).parent.parent.parent
    return _existing([folder.parent]) if folder.name == "custom_nodes" else []


def _from_home() -> list[Host]:
    return _existing(sorted(Path.home().glob("ComfyUI*")))


def _existing(paths: list[Path]) -> list[Host]:
    return [host for host in map(read_host, paths) if host is not None]


def _cloned() -> list[Host]:
    print(f"[hosts] no ComfyUI here, cloning {SOURCE}", flush=True)
    try:
        # Where nothing answers, a clone alone would wait for minutes.
        _git("ls-remote", "-q", SOURCE, "HEAD", timeout=20)
        _git("clone", "-q", "--depth", "1", SOURCE, str(CLONE), timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        print(f"[hosts] the clone failed ({reason}); set COMFYUI_PATH to a ComfyUI", flush=True)
        return []
    return _existing([CLONE])


def _git(*arguments: str, timeout: float) -> None:
    command = ["git", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
