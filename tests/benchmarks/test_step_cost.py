"""The cost benchmark's arithmetic, and what its meter measures."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cost_table
import meters
import step_cost
from step_cost import INVERSION, OFFICIAL, Cost, Kind

SECONDS = {Kind("plain"): 1.0, Kind("live"): 2.0, Kind("cached"): 1.1, INVERSION: 0.5,
           OFFICIAL: 3.0}


def every(seconds: float) -> Cost:
    return Cost(dict.fromkeys(step_cost.PHASES, seconds), None)


def cells(text: str) -> dict[str, list[str]]:
    """By the row's kind, what is in its other cells."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_phases_count_as_the_schedule_has_them():
    cost = Cost({"replace": 1.0, "concat": 2.0}, None)
    assert cost.seconds == pytest.approx((19 * 1 + 31 * 2) / 50)


def test_what_is_done_once_is_shared_by_all_variations():
    costs = {(kind, 1): every(seconds) for kind, seconds in SECONDS.items()}
    found = cells(cost_table.finished(costs, 50, 50))
    assert found["plain"] == ["50.0 (1.00)"] * 3
    assert found["live"] == [f"{100 + 25 / n:.1f} ({2 + 0.5 / n:.2f})" for n in (1, 4, 16)]
    one, four, _ = found["cached"]
    assert one == found["live"][0], "the first run computes what is kept"
    assert four.startswith(f"{(25 + 100 + 3 * 55) / 4:.1f} ")


def test_what_the_inversion_kept_spares_the_first_run():
    costs = {(kind, 1): every(seconds) for kind, seconds in SECONDS.items()}
    found = cells(cost_table.finished(costs, 20, 80))
    assert found["live"] == [f"{40 + 40 / n:.1f} ({2 + 2 / n:.2f})" for n in (1, 4, 16)]
    assert found["cached"][0] == found["live"][0]
    kept = [f"{22 + 40 / n:.1f} ({1.1 + 2 / n:.2f})" for n in (1, 4, 16)]
    assert found["cached, from RIVAL Invert"] == kept


def test_official_variations_cost_n_times_one():
    costs = {(kind, 1): every(seconds) for kind, seconds in SECONDS.items()}
    costs |= {(Kind(name), 4): every(seconds) for name, seconds in (("plain", 3.0), ("live", 4.0))}
    lines = [line for line in cost_table.steps(costs).splitlines() if line.startswith("| 4 ")]
    live, official = lines[1], lines[-1]
    assert "| 4.00 | 1.33 | 0.33 |" in live
    assert "| 12.00 | 12.00 | 12.00 | 4.00 | 1.00 |" in official


def leave_a_hole(size, piece=1 << 15):
    """Memory that the C library keeps: freed, but for its last piece."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(piece) for _ in range(size // piece)]
    for address in pieces:
        ctypes.memset(address, 1, piece)
    for address in pieces[:-1]:
        libc.free(address)


@pytest.mark.skipif(not meters.CLEAR.exists(), reason="only Linux tells resident memory")
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU torch counts")
def test_the_peak_is_counted_even_after_it_is_freed():
    meter, size = meters.Meter(), 1 << 28
    leave_a_hole(2 * size)
    for expected in (size, 0):
        meter.start()
        if expected:
            torch.ones(size, dtype=torch.uint8)
        meter.stop()
        assert abs(meter.peak - expected) < size / 4
    assert meter.seconds >= 0
