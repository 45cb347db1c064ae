"""A peak can begin again, and reference cycles are freed at once."""

from __future__ import annotations

import gc
import mmap
import sys
import weakref

import pytest
import torch

from dreambooth.training.logs.memory import free_memory, peak_memory_gib, reset_peak_memory

BLOCK = 256 * 2**20  # bytes


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can reset a process's peak")
@pytest.mark.skipif(torch.cuda.is_available(), reason="of the process, not of a GPU")
def test_the_peak_is_that_since_the_last_reset():
    reset_peak_memory()
    before = peak_memory_gib()
    block = mmap.mmap(-1, BLOCK)  # from the system itself: an allocator may keep what is freed
    for page in range(0, BLOCK, mmap.PAGESIZE):
        block[page] = 1
    added = BLOCK / 2**30
    assert peak_memory_gib() == pytest.approx(before + added, abs=0.05)
    block.close()
    assert peak_memory_gib() == pytest.approx(before + added, abs=0.05)
    reset_peak_memory()
    assert peak_memory_gib() == pytest.approx(before, abs=0.05)


class Cycle:
    """What only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_freed():
    gc.disable()
    try:
        cycle = weakref.ref(Cycle())
        assert cycle() is not None
        free_memory()
        assert cycle() is None
    finally:
        gc.enable()
