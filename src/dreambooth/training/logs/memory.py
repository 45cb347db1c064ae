"""Peak memory of this process or its GPU, the GPU's name, and giving memory back."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

from dreambooth.heap import keep_heap


def peak_memory_gib() -> float:
    """Return the peak in GiB since the last reset: of the GPU if there is one, else of the process.

    Only Linux can reset a process's peak; elsewhere it is the peak since the process started.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # does not exist on Windows

    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def reset_peak_memory() -> None:
    """Set the peak to what is in use now, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # only Linux has this file
            Path("/proc/self/clear_refs").write_text("5")


def memory_gib(device: str) -> float:
    """Return how much memory there is, in GiB: of the GPU for `cuda`, else of this machine.

    Where the system gives this process less, as containers do on Linux, it is that.
    """
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory / 2**30
    import psutil

    least = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # "max" is no number
        least = min(least, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return least / 2**30


def device_name(device: str) -> str:
    """Return the model of the GPU for `cuda`, or `auto` where there is one; else `cpu`."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return torch.cuda.get_device_name() if on_gpu else "cpu"


def free_memory() -> None:
    """Free what only reference cycles hold, such as a Lightning Trainer and its optimizer state.

    Python frees it at an unknown later time, and the C library keeps freed memory for the process.
    Either way a later phase or run would seem to need that memory too.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim is not None:
            trim(0)
            keep_heap()
