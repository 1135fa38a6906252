"""The web frontend that a host asks for, and a browser to open it in. Standard library only."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import generated
from environment import SetupError

PACKAGE = "comfyui-frontend-package"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def static_files(python: Path, host) -> Path:
    """What the host's --front-end-root is to be: its pinned frontend, fetched by pip once.

    Not in the environment itself: hosts pin different versions (see environment.py).
    """
    requirement = pinned(host)
    folder = generated.CACHE / requirement.replace("==", "-")

    def fetch(partial: Path) -> None:
        command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check",
                   "--no-deps", "--target", str(partial), requirement]
        if subprocess.run(command, check=False).returncode != 0:
            raise SetupError(f"the frontend could not be fetched: pip install {requirement}")

    return generated.once(folder, fetch) / "comfyui_frontend_package" / "static"


def pinned(host) -> str:
    """`comfyui-frontend-package==1.2.3`, from the host's requirements."""
    text = (Path(host.path) / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{PACKAGE}\s*==\s*([\w.]+)", text, re.MULTILINE)
    if found is None:
        raise SetupError(f"{host} pins no {PACKAGE} in its requirements.txt")
    return f"{PACKAGE}=={found[1]}"


def find_browser() -> str | None:
    """An installed Chromium or Chrome."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)
