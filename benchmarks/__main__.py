"""Measures and redraws all that shows how good a demo model's variations are.

    python benchmarks --model flow --threads 1

Runs quality.py, few_steps.py and layers.py (the photo beside and in the same place) one after the
other, and tools/first_picture.py. Tables and pictures go to `.cache/figures/<model>`; what else is
said on the command line is handed on to each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / ".cache" / "figures"


def commands(folder: Path) -> dict[str, list[str]]:
    """By the name of what they print: scripts of the repository, and what they are told."""
    return {
        "first_picture": ["tools/first_picture.py", "--out", str(folder / "variations.jpg")],
        "quality": ["benchmarks/quality.py", "--picture", str(folder / "quality.png"),
                    "--rows", str(folder / "rows.png")],
        "few_steps": ["benchmarks/few_steps.py"],
        "layers_beside": ["benchmarks/layers.py", "--positions", "beside"],
        "layers_same": ["benchmarks/layers.py", "--positions", "same"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("unet", "flow"), default="unet")
    parser.add_argument("--out", type=Path, default=FOLDER, help="a folder for the figures")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="by the names of the tables")
    options, others = parser.parse_known_args()
    folder = (options.out / options.model).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (script, *given) in commands(folder).items():
        if options.only and name not in options.only:
            continue
        print(name, flush=True)
        with (folder / f"{name}.md").open("w", encoding="utf-8") as said:
            command = [sys.executable, str(REPO / script), "--model", options.model, *given]
            if subprocess.run([*command, *others], stdout=said).returncode:
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else f"figures: {folder}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
