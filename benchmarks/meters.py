"""What one step takes: seconds, and the memory that it needs beside what was there."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """Measures what runs between `start` and `stop`.

    On a GPU: wall time and torch's allocations. Else the process's resident memory, where Linux
    tells it, and wall time, or the processor's own where other programs keep it busy.
    """

    def __init__(self, processor_time: bool = False):
        self.on_gpu = torch.cuda.is_available()
        self.clock = time.process_time if processor_time else time.perf_counter
        self.seconds: float = 0.0
        self.peak: int | None = None  # bytes

    def start(self) -> None:
        self.before = self.reset_peak()
        self.began = self.clock()

    def stop(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        self.seconds = self.clock() - self.began
        if self.before is not None:
            self.peak = self.highest() - self.before

    def reset_peak(self) -> int | None:
        """Bytes in use now; the peak is counted from here."""
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        if not CLEAR.exists():
            return None
        return_free_memory()
        CLEAR.write_text("5")
        return resident("VmRSS")

    def highest(self) -> int:
        return torch.cuda.max_memory_allocated() if self.on_gpu else resident("VmHWM")


def return_free_memory() -> None:
    """The C library keeps what was freed and hands it out again: resident memory would not grow."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def resident(field: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS now, VmHWM at most."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == field + ":")
