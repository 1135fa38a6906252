"""Words as a CLIP's tokens."""

from __future__ import annotations

from typing import Any

import torch


def token_ids(clip: Any, text: str) -> list:
    """The text's tokens as the conditioning holds them, all chunks in a row.

    None stands for a vector of a textual inversion: it is no word's token.
    """
    chunks = next(iter(clip.tokenize(text).values()))
    tokens = [token for chunk in chunks for token, *_ in chunk]
    return [token if isinstance(token, int) else None for token in tokens]


def word_ids(clip: Any, word: str) -> list:
    """A word's own tokens, without what begins and ends every text."""
    empty, ids = token_ids(clip, ""), token_ids(clip, word)
    begin = 1 if len(empty) > 1 and empty[0] == ids[0] else 0
    return ids[begin : ids.index(empty[begin], begin)]


def same_encoding(clip: Any, text: str, conditioning: Any) -> bool:
    """Whether a CONDITIONING is this text's, as far as its encoding tells."""
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
    given = conditioning[0][0].to(encoded)
    return given.shape == encoded.shape and torch.allclose(given, encoded, rtol=1e-2, atol=1e-2)
