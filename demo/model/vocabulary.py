"""CLIP's tokens for the words of captions, so that nobody needs CLIP's tokenizer for them.

    python demo/model/vocabulary.py        # writes the table anew, with a ComfyUI's tokenizer

Without a ComfyUI the demo reads `vocabulary.json`; a word that is not in there was never trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scenes import all_attributes, caption

FILE = Path(__file__).with_suffix(".json")
LENGTH = 77  # tokens, with the one that begins and the ones that end a text


class Vocabulary:
    """The committed table; texts are split at spaces and read in lower case."""

    def __init__(self, table: dict | None = None):
        table = table or json.loads(FILE.read_text(encoding="utf-8"))
        self.begin, self.end, self.words = table["begin"], table["end"], table["words"]

    def unknown(self, text: str) -> list[str]:
        return [word for word in text.split() if word.lower() not in self.words]

    def tokens(self, text: str) -> list[int]:
        """As long as CLIP reads, ended as often as that takes; what is longer is cut."""
        inner = [token for word in text.lower().split() for token in self.words[word]]
        inner = inner[: LENGTH - 2]
        return [self.begin, *inner, *[self.end] * (LENGTH - 1 - len(inner))]


def words_of_captions() -> list[str]:
    return sorted({word for a in all_attributes() for word in caption(a).split()})


def table(tokenizer, words: Iterable[str]) -> dict:
    """What a ComfyUI's SDTokenizer makes of these words."""

    def tokens(text: str) -> list[int]:
        return [token for token, _ in tokenizer.tokenize_with_weights(text)[0]]

    begin, end = tokens("")[:2]
    known = {word: [t for t in tokens(word) if t not in (begin, end)] for word in words}
    return {"begin": begin, "end": end, "words": known}


def main() -> None:
    from unet import use_host

    use_host()
    from comfy.sd1_clip import SDTokenizer

    made = table(SDTokenizer(), words_of_captions())
    lines = [f"    {json.dumps(word)}: {tokens}" for word, tokens in made["words"].items()]
    head = f'  "begin": {made["begin"]},\n  "end": {made["end"]},\n  "words": {{\n'
    FILE.write_text("{\n" + head + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
