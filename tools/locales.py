"""Writes the nodes' words in other languages, from tables that a person can correct.

    python tools/locales.py

locales/<language>.csv has a row for each English word or sentence of the schemas: correct what is
said there, and run this. It leaves the tables in the schemas' order, with an empty place for what
is new and without what is gone, and locales/<language>/nodeDefs.json, which ComfyUI serves. Needs
a ComfyUI.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

from applications import ready

LOCALES = REPO / "locales"
LANGUAGES = ("zh", "ja")
Words = Mapping[str, str]  # English to another language


def main() -> int:
    host = ready(__file__)
    import in_process

    in_process.prepare_host(host.path, cpu=True)
    in_process.register_pack()
    from comfyui_rival.nodes import NODES

    schemas = [node.define_schema() for node in NODES]
    for language in LANGUAGES:
        words = table(language)
        for path, text in files(language, schemas, words).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        for sentence in sentences(schemas):
            if not words.get(sentence):
                print(f"{language}: no words for: {sentence}")
    return 0


def table(language: str) -> Words:
    path = LOCALES / f"{language}.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def files(language: str, schemas: Sequence, words: Words) -> dict[Path, str]:
    """What belongs on the disk: the table, and what is made of it."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["en", language])
    writer.writerows((sentence, words.get(sentence, "")) for sentence in sentences(schemas))
    defs = json.dumps(node_defs(schemas, words), ensure_ascii=False, indent=1)
    return {
        LOCALES / f"{language}.csv": rows.getvalue(),
        LOCALES / language / "nodeDefs.json": f"{defs}\n",
    }


def sentences(schemas: Sequence) -> list[str]:
    """All that the nodes show, each once, in the order of the nodes."""
    found = []
    for schema in schemas:
        found += [schema.display_name, schema.description]
        found += [text for i in schema.inputs for text in (i.id, i.tooltip)]
        found += [text for o in schema.outputs for text in (o.display_name, o.tooltip)]
    return [*dict.fromkeys(text for text in found if text)]


def node_defs(schemas: Sequence, words: Words) -> dict:
    """As the frontend reads it; what has no words yet is left out, and stays English."""

    def said(**texts: str | None) -> dict[str, str]:
        return {key: words[text] for key, text in texts.items() if words.get(text or "")}

    return {
        schema.node_id: {
            **said(display_name=schema.display_name, description=schema.description),
            "inputs": {i.id: named(said(name=i.id, tooltip=i.tooltip), i.id)
                       for i in schema.inputs},
            "outputs": {str(place): said(name=o.display_name, tooltip=o.tooltip)
                        for place, o in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


def named(said: dict[str, str], name: str) -> dict[str, str]:
    """The tooltip also gives the English name, which errors and help pages use."""
    if "tooltip" not in said or said.get("name", name).lower() == name:
        return said
    return {**said, "tooltip": f"{said['tooltip']} [{name}]"}


if __name__ == "__main__":
    sys.exit(main())
