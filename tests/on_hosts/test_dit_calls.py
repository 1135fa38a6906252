"""Attention calls are told apart by counting, and by the blocks that a network names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.any_host
IMAGE, OTHER = True, False
# A text refiner and an image refiner without names, then two blocks of self- and cross-attention.
BLOCKS = [(None, (OTHER,)), (None, (IMAGE,)),
          (("double_block", 0), (IMAGE, OTHER)), (("double_block", 1), (IMAGE, OTHER))]


@pytest.fixture
def call():
    from comfyui_rival.nodes.host.calls import Call

    return Call(SimpleNamespace(network="Network"), BLOCKS, None, torch.zeros(1, 4, 8, 8), None, {})


def block(i: int) -> dict:
    return {"block_type": "double", "block_index": i}


def numbers(call, *options) -> list:
    """Which of the image's calls each is, or None."""
    found = [call.next(one) for one in options]
    return [None if layer is None else layer[0][1] for layer in found]


def test_calls_without_names_are_counted(call):
    assert numbers(call, *[{}] * 6) == [None, 1, 2, None, 4, None]
    call.end()


def test_what_a_patch_of_a_named_block_attends_to_is_left_out(call):
    """A ControlNet that is a model patch runs blocks of its own inside the network's."""
    found = numbers(call, {}, {}, *[block(0)] * 4, *[block(1)] * 3)
    assert found == [None, 1, 2, None, None, None, 4, None, None]
    call.end()


def test_named_blocks_may_be_skipped(call):
    assert numbers(call, {}, {}, block(1), block(1)) == [None, 1, 4, None]
    call.end()


def test_calls_before_the_first_name_cannot_be_more(call):
    numbers(call, {}, {}, {})
    with pytest.raises(ValueError, match=r"^this Network made attention calls of other blocks"):
        call.next(block(0))


def test_more_or_fewer_calls_than_there_are(call):
    numbers(call, *[{}] * 5)
    with pytest.raises(ValueError, match=r"^this Network made 5 of its 6 attention calls: remove"):
        call.end()
    call.next({})
    with pytest.raises(ValueError, match=r"^this Network made more attention calls than its kind"):
        call.next({})


def test_a_model_call_that_was_answered_from_a_cache_made_none(call):
    call.end()


def test_a_replaced_block_counts_as_whole_whatever_it_does(call):
    skips = call.counted(("double_block", 0), lambda *_: "skipped")
    assert numbers(call, {}, {}) == [None, 1]
    assert skips() == "skipped" and numbers(call, {}, {}) == [4, None]
    call.end()
    assert call.counted(("double_block", 7), skips) is skips
