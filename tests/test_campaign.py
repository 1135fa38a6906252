"""The campaign as a small run of each kind; `python tests/campaign` is the long one."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.host


def sound(found: dict) -> dict:
    assert not found["faults"], "\n".join(found["faults"])
    return found


def test_random_graphs():
    from campaign import graphs

    found = sound(graphs.run(6, 3000))
    assert found["ran"] and found["refused"]


def test_every_step_interrupted():
    from campaign import interrupts, scenes

    found = sound(interrupts.run(0, 0, by_look=("Patch cached",), by_line=()))
    assert found["interrupted in Patch cached"] == found["places"] > 2 * scenes.STEPS


def test_a_save_interrupted():
    from campaign import interrupts

    found = sound(interrupts.run(6, 20, by_look=(), by_line=("Save Chain",)))
    assert found["interrupted in Save Chain"] == 6


def test_out_of_memory():
    from campaign import memory, scenes

    chosen = ("Patch, RIVAL KSampler",)
    found = sound(memory.run(10, 2 * scenes.STEPS, by_call=chosen, by_attention=()))
    assert found["tried again"] and found["advice"] and found["the host's own error"]
    found = sound(memory.run(4, 60, by_call=(), by_attention=chosen))
    assert found["tried again"] + found["the host's own error"] == 4


def test_two_clients(server, server_folder):
    from campaign import clients

    found = sound(clients.run(8, 1, server, server_folder))
    assert sum(n for name, n in found.items() if ": ran" in name) >= 2
