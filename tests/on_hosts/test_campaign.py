"""The campaign as a small run of each kind; `python tests/campaign` is the long one."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.host, pytest.mark.sampled]


def sound(found: dict) -> dict:
    assert not found["faults"], "\n".join(found["faults"])
    return found


def test_random_graphs():
    from campaign import graphs

    found = sound(graphs.run(6, 3006))
    assert found["ran"] and found["refused"]


@pytest.mark.any_host
def test_every_step_of_a_sampler_interrupted():
    """The graph's last moments: two model calls and the end of each step, and some more."""
    from campaign import interrupts, scenes

    scene, last = "Patch, RIVAL KSampler", 3 * scenes.STEPS + 3
    found = sound(interrupts.run(last, -last, at_moments=(scene,), by_line=()))
    assert 3 * scenes.STEPS <= found[f"interrupted in {scene}"] < found["places"]


@pytest.mark.any_host
def test_a_save_interrupted():
    """The last lines: those that put the file on the disk."""
    from campaign import interrupts

    last = 16
    found = sound(interrupts.run(last, -last, at_moments=(), by_line=("Save Chain",)))
    assert found["interrupted in Save Chain"] == last


@pytest.mark.any_host
def test_out_of_memory_at_a_model_call():
    from campaign import memory

    found = sound(memory.run(8, 12, by_call=("Patch cached",), by_attention=()))
    assert found["tried again"] == found["advice"] == 2
    assert found["the host's own error"] == 4


@pytest.mark.any_host
def test_out_of_memory_in_attention():
    from campaign import memory

    found = sound(memory.run(8, 80, by_call=(), by_attention=("Patch, RIVAL KSampler",)))
    assert found["tried again"] == 4 == found["the host's own error"]


@pytest.mark.any_host
def test_two_clients(server, server_folder):
    from campaign import clients

    found = sound(clients.run(8, 1, server, server_folder))
    assert sum(n for name, n in found.items() if ": ran" in name) >= 2
