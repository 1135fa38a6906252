"""A ComfyUI in this process, and the pack beside it, for tests and benchmarks.

The repository's root must never be on sys.path: its `nodes/` would shadow ComfyUI's `nodes`.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PACK = "comfyui_rival"


def prepare_host(path: Path, cpu: bool = True, pytorch_attention: bool = False) -> None:
    """Import path and settings, in the order that ComfyUI needs."""
    sys.path.insert(0, str(path))
    import comfy.cli_args

    base = Path(tempfile.mkdtemp(prefix="rival-"))
    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.use_pytorch_cross_attention |= pytorch_attention
    comfy.cli_args.args.base_directory = str(base)  # nothing is written into the host's folders
    for folder in ("input", "output", "temp", "models", "custom_nodes"):
        (base / folder).mkdir()
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    import utils.extra_config  # noqa: F401  (before `nodes`, which makes `utils` ambiguous)


def register_pack() -> None:
    """Import the repository's root as a package of its own name, once."""
    if PACK in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        PACK, REPO / "__init__.py", submodule_search_locations=[str(REPO)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = package
    spec.loader.exec_module(package)
