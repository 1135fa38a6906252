"""The web frontend that a host asks for, and a browser to open it in. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import generated
from environment import SetupError

PACKAGE = "comfyui-frontend-package"
BROUGHT = "RIVAL_BROWSER"  # the variable that tells other processes of a browser off the path
LONGEST = 600  # seconds that a command may take
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
    """An installed Chromium or Chrome, or the one that `bring_browser` told of."""
    return os.environ.get(BROUGHT) or next(filter(None, map(shutil.which, BROWSERS)), None)


def bring_browser(python: Path) -> str | None:
    """One on the path, else playwright's own, else the system's package, where it may be installed.

    python: of an environment with playwright in it.
    """
    return find_browser() or playwrights_own(python) or system_package()


def playwrights_own(python: Path) -> str | None:
    """Fetched if it is not there; None if it cannot be, or does not start on this system."""
    ask = "from playwright.sync_api import sync_playwright as s\n" \
          "with s() as p: print(p.chromium.executable_path)"
    path = ran([str(python), "-c", ask])
    if path is None:
        return None
    if not Path(path).exists():
        ran([str(python), "-m", "playwright", "install", "chromium"])
    return path if ran([path, "--version"]) else None


def system_package() -> str | None:
    """Debian's, where this user may install packages."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    ran(["apt-get", "update", "-qq"])
    ran(["apt-get", "install", "-y", "-qq", "chromium"])
    return find_browser()


def ran(command: list[str]) -> str | None:
    """What a command printed; None if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True,
                              timeout=LONGEST)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
