"""The nodes in other languages: whole, in step with the schemas, and as ComfyUI reads them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools")]

import locales

pytestmark = pytest.mark.any_host

NODES = json.loads((REPO / "tests" / "golden" / "nodes.json").read_text(encoding="utf-8"))
SYNTAX = re.compile(r"[{}@|$]")  # of vue-i18n's messages
HAN, KANA = re.compile(r"[\u4e00-\u9fff]"), re.compile(r"[\u3041-\u30ff]")
SCRIPT = {"zh": HAN, "ja": re.compile(HAN.pattern[:-1] + KANA.pattern[1:])}
FIGURES = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
each_language = pytest.mark.parametrize("language", locales.LANGUAGES)


def schemas() -> list:
    from comfyui_rival.nodes import NODES

    return [node.define_schema() for node in NODES]


def stored(language: str) -> dict:
    return json.loads((REPO / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_every_table_has_its_folder_and_the_other_way_round():
    folder = REPO / "locales"
    assert {path.stem for path in folder.glob("*.csv")} == set(locales.LANGUAGES)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(locales.LANGUAGES)


@each_language
def test_what_is_stored_is_what_the_tool_writes(language):
    """A new or changed word of a schema changes the files: run tools/locales.py, fill it in."""
    for path, text in locales.files(language, schemas(), locales.table(language)).items():
        assert path.read_text(encoding="utf-8") == text, path


@each_language
def test_every_word_and_sentence_is_said(language):
    words = locales.table(language)
    assert [sentence for sentence, said in words.items() if not said.strip()] == []
    assert [said for said in words.values() if SYNTAX.search(said) or said != said.strip()] == []
    untouched = [sentence for sentence, said in words.items()
                 if " " in sentence and not SCRIPT[language].search(said)]
    assert untouched in ([], ["RIVAL Sigmas"])


@each_language
def test_every_figure_of_a_sentence_is_in_its_translation(language):
    for sentence, said in locales.table(language).items():
        missing = set(FIGURES.findall(sentence)) - set(FIGURES.findall(said))
        assert not missing, (sentence, said)


@each_language
def test_every_input_and_output_has_its_words(language):
    found = stored(language)
    assert list(found) == list(NODES)
    for node, schema in NODES.items():
        assert found[node]["display_name"] and found[node]["description"]
        assert sorted(found[node]["inputs"]) == sorted(i["name"] for i in schema["inputs"])
        assert all(i["name"] and i["tooltip"] for i in found[node]["inputs"].values())
        outputs = found[node]["outputs"]
        assert list(outputs) == [str(i) for i in range(len(schema["outputs"]))]
        for said, (kind, name) in zip(outputs.values(), schema["outputs"]):
            assert said["tooltip"] and ("name" in said) == (name != kind)  # types have core's words


def test_a_new_input_is_left_empty_and_a_gone_one_left_out():
    from types import SimpleNamespace as Named

    schema = Named(node_id="N", display_name="A", description="",
                   inputs=[Named(id="new", tooltip="What it does.")], outputs=[])
    table, _ = locales.files("zh", [schema], {"A": "甲", "gone": "走"}).values()
    assert table == "en,zh\nA,甲\nnew,\nWhat it does.,\n"
    assert locales.node_defs([schema], {"A": "甲"})["N"]["inputs"] == {"new": {}}


def test_the_tooltip_of_a_translated_name_gives_the_english_one():
    assert locales.named({"name": "步数", "tooltip": "多"}, "steps")["tooltip"] == "多 [steps]"
    assert locales.named({"name": "CFG", "tooltip": "多"}, "cfg")["tooltip"] == "多"


@pytest.mark.host
def test_the_host_serves_them(server):
    served = server.get_json("/i18n")
    for language in locales.LANGUAGES:
        assert served[language]["nodeDefs"].items() >= stored(language).items()
