"""Words that choose: what each stands for, and what stands for nothing."""

from __future__ import annotations

import pytest
from comfyui_rival.rival_core.choosing.choice import asks_for_best, parse, picks
from comfyui_rival.rival_core.errors import RivalError

RANKING = [3, 1, 4, 2]
MEANT = {
    "2": [2],
    "4, 2": [4, 2],
    " 1;3\uff0c 2 ,": [1, 3, 2],
    "2-4": [2, 3, 4],
    "3 \u2013 1": [3, 2, 1],
    "2, 1-3, 2": [2, 1, 3],
    "best": [3],
    "Best 2": [3, 1],
    "best4": RANKING,
    "2, best 3": [2, 3, 1, 4],
    "ALL": [1, 2, 3, 4],
    "4, all": [4, 1, 2, 3],
    "none": [],
}


@pytest.mark.parametrize("text", MEANT)
def test_what_is_meant(text):
    terms = parse(text)
    assert picks(terms, 4, RANKING) == MEANT[text]
    assert asks_for_best(terms) == ("best" in text.lower())


@pytest.mark.parametrize("text, said", [
    ("", "chosen is empty"), (" , ", "chosen is empty"), ("the left one", "'the left one'"),
    ("2 4", "commas between"), ("1, none", "commas between"), ("-1", "commas between"),
    ("1.5", "commas between"), ("best -1", "commas between"), ("9" * 5000, "commas between"),
    ("0", "numbered from 1"), ("0-2", "numbered from 1"), ("best 0", "numbered from 1"),
])
def test_what_is_no_choice(text, said):
    with pytest.raises(RivalError, match=said) as error:
        parse(text)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("text, count, said", [
    ("5", 4, "asks for picture 5 and there are 4 pictures"),
    ("2-999999", 4, "asks for picture 999999 and there are 4 pictures"),
    ("9-1", 4, "asks for picture 9"),
    ("best 5", 4, "asks for the best 5 and there are 4 pictures"),
    ("2", 1, "asks for picture 2 and there is 1 picture:"),
])
def test_what_is_not_there(text, count, said):
    with pytest.raises(RivalError, match=said):
        picks(parse(text), count, RANKING)
