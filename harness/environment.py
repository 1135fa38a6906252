"""The pack's development environment: one virtual environment in `<repo>/.venv`.

Standard library only, because this runs before anything is installed. `ensure` is idempotent:
a stamp inside the venv lists what has been installed, and asking for no more than that returns
at once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
VENV = REPO / ".venv"

TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"
TORCHAUDIO = "torchaudio==2.11.0"
CORE_NEEDS = ("numpy", "einops", "safetensors")  # what rival_core runs on where there is no host
ENGINE_NEEDS = ("diffusers", "transformers", "scipy", "pillow")  # and of the demo, too
TEST_TOOLS = ("pytest", "pytest-xdist", "pytest-timeout", "playwright", "ruff", *ENGINE_NEEDS)

FRONTEND = ("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs")

# Hosts before 0.4 import it and count on another package to bring it along, which none does now.
UNDECLARED = {"requests"}

_TORCH_FAMILY = {"torch", "torchvision", "torchaudio"}


class SetupError(RuntimeError):
    """The environment could not be made; the message names the command that failed."""


def ensure(extra: Iterable[str] = (), hosts: Iterable = ()) -> Path:
    """Make or complete the venv for these hosts and extra requirements; return its Python."""
    asked = {TORCH, TORCHVISION, TORCHAUDIO, *CORE_NEEDS, *UNDECLARED, *extra}
    asked |= host_requirements(hosts)
    python = venv_python()
    done = _read_stamp() if python.exists() else None
    if done is not None and asked <= done:
        return python
    if done is None:
        _create_venv()
    _install(python, sorted(newest_pins(asked | (done or set()))))
    _stamp_file().write_text("\n".join(sorted(asked | (done or set()))) + "\n", encoding="utf-8")
    return python


def capable_interpreter(extra: Iterable[str] = (), hosts: Iterable = ()) -> Path | None:
    """The running Python if every requirement is installed in it already, else None.

    Only presence counts, not versions: an artist's own ComfyUI environment is what their
    ComfyUI runs with, so it is good enough for us.
    """
    hosts = list(hosts)
    names = {requirement_name(r) for r in (*CORE_NEEDS, *host_requirements(hosts), *extra)}
    names |= _TORCH_FAMILY | UNDECLARED if hosts else {"torch"}
    return Path(sys.executable) if all(map(_is_installed, names)) else None


def host_requirements(hosts: Iterable) -> set[str]:
    """What the hosts' own requirements.txt ask for, less PyTorch and the web frontend."""
    found = set()
    for host in hosts:
        lines = (Path(host.path) / "requirements.txt").read_text(encoding="utf-8").splitlines()
        found |= {line.split("#")[0].strip() for line in lines} - {""}
    return {r for r in found if not _left_out(requirement_name(r))}


def newest_pins(requirements: Iterable[str]) -> set[str]:
    """Where hosts pin one package to different versions, keep the newest pin only."""
    pins: dict[str, str] = {}
    kept = set()
    for requirement in sorted(requirements):
        name, _, version = requirement.partition("==")
        if not version:
            kept.add(requirement)
        elif name not in pins or _version_key(version) > _version_key(pins[name]):
            pins[name] = version
    return kept | {f"{name}=={version}" for name, version in pins.items()}


def requirement_name(requirement: str) -> str:
    """`SQLAlchemy>=2.0.0` -> `sqlalchemy`."""
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _left_out(name: str) -> bool:
    return name in _TORCH_FAMILY or name.startswith("comfyui-")


def _version_key(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    return True


def _stamp_file() -> Path:
    return VENV / "installed.txt"


def _read_stamp() -> set[str] | None:
    """The requirements installed so far; None where the venv was not made by `ensure`."""
    try:
        return set(_stamp_file().read_text(encoding="utf-8").split("\n")) - {""}
    except OSError:
        return None


def _create_venv() -> None:
    _say(f"creating {VENV}")
    venv.create(VENV, clear=True, with_pip=True)
    _stamp_file().write_text("", encoding="utf-8")


def _install(python: Path, requirements: list[str]) -> None:
    """PyTorch first and pinned: a requirement that merely needs `torch` must not replace it."""
    ordinary = [r for r in requirements if requirement_name(r) not in _TORCH_FAMILY]
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    _run(f"installing {TORCH} (the large one)", [*pip, TORCH])
    _run("installing torchvision, torchaudio", [*pip, "--no-deps", TORCHVISION, TORCHAUDIO])
    _run(f"installing {len(ordinary)} more requirements", [*pip, TORCH, TORCHVISION, *ordinary])
    _repair_torchvision(python)
    _repair_torchaudio(python)
    _declare_frontend(python)


_OPERATORS_MODULE = '''\
"""Declares torchvision's operators where its compiled ones do not fit this PyTorch.

The published torchvision wheel is built for CUDA. Beside a CPU-only torch its compiled part
does not load, and `import torchvision` then fails on operators that nobody here calls.
"""
import sys


class _DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                self.library.define(
                    operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            keep.append(self)
        return None


keep = []  # a library that is garbage collected takes its operators along
sys.meta_path.insert(0, _DeclareOperators())
'''


def _repair_torchvision(python: Path) -> None:
    """Have the operators declared just before torchvision is imported, if it needs that."""
    if _imports(python, "torchvision"):
        return
    folder = _site_packages(python)
    (folder / "rival_torchvision_operators.py").write_text(_OPERATORS_MODULE, encoding="utf-8")
    # A .pth line runs at start-up; unlike sitecustomize no other file can shadow it.
    (folder / "rival_torchvision_operators.pth").write_text("import rival_torchvision_operators\n")
    if not _imports(python, "torchvision"):
        raise SetupError(f"torchvision does not import: {python} -c 'import torchvision'")


def _repair_torchaudio(python: Path) -> None:
    """An empty stand-in if torchaudio cannot load: hosts import it, only audio nodes call it."""
    if _imports(python, "torchaudio"):
        return
    pip = [str(python), "-m", "pip", "uninstall", "-q", "-y", "torchaudio"]
    _run("torchaudio does not load here, putting a stand-in in its place", pip)
    folder = _site_packages(python) / "torchaudio"
    folder.mkdir(exist_ok=True)
    for name in ("__init__", "functional", "transforms"):
        (folder / f"{name}.py").write_text('"""Stand-in: nothing here handles audio."""\n')


def _declare_frontend(python: Path) -> None:
    """Record the hosts' web frontend as installed, without its files.

    Headless runs do without it. Two hosts pin versions that cannot share a venv, and one fork
    installs its own at import, which then keeps the other host from starting.
    """
    for name in FRONTEND:
        folder = _site_packages(python) / f"{name.replace('-', '_')}-9999.0.0.dist-info"
        folder.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999.0.0\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")


def _imports(python: Path, module: str) -> bool:
    command = [str(python), "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _site_packages(python: Path) -> Path:
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _run(stage: str, command: list[str]) -> None:
    _say(stage)
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise SetupError(f"failed with exit code {result.returncode}: {shlex.join(command)}")


def _say(line: str) -> None:
    print(f"[setup] {line}", flush=True)
