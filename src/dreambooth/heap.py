"""How the C library keeps memory: freed memory stays for the next step, in large pages."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

# numbers of glibc's malloc.h and Linux's mman.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MADV_HUGEPAGE = 14

KEPT = 2**30  # bytes at the end of the heap that stay with the process when they are freed
OWN_MAPPING = 2**25  # smallest block that is not on the heap, bytes; glibc allows no more
GROWTH = 2**26  # bytes by which the heap grows
OTHERS = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")  # settings of the user's own


def keep_heap() -> bool:
    """Keep freed memory for the next step, in large pages; return whether that can be set here.

    A training step on the CPU frees all activations and allocates them again. Without this the
    system takes the memory back and gives new pages of 4 KiB, in each step: a step of the embedded
    model takes 15 % less time with it. Numbers do not depend on it. Only glibc on Linux has these
    settings; a user's own stay.
    """
    if sys.platform != "linux" or any(name.startswith(OTHERS) for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # another C library
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.mallopt(M_MMAP_THRESHOLD, OWN_MAPPING)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT + OWN_MAPPING)
    libc.mallopt(M_TOP_PAD, KEPT)
    libc.free(libc.malloc(OWN_MAPPING - 4096))  # the heap grows by KEPT: addresses, no memory yet
    libc.mallopt(M_TOP_PAD, GROWTH)
    with suppress(OSError, StopIteration, ValueError):
        _large_pages(libc)
    return True


def _large_pages(libc: ctypes.CDLL) -> None:
    """Ask the kernel for pages of 2 MiB in the heap, where it gives them on request."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    addresses = next(line for line in maps if line.endswith("[heap]")).split()[0]
    start, end = (int(address, 16) for address in addresses.split("-"))
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_HUGEPAGE)
