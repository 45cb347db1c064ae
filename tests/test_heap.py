"""Freed memory stays with the process, in large pages, unless a user has settings of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.heap import OTHERS
from spine import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc on Linux")
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FREED = """
import ctypes, json, re
from pathlib import Path
from dreambooth.heap import keep_heap

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

kept = keep_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(2**20) for _ in range(100)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
before = resident()
for block in reversed(blocks):
    libc.free(block)
heap = re.search(r"\\[heap\\]\\n.*?VmFlags:([^\\n]*)", Path("/proc/self/smaps").read_text(), re.S)
print(json.dumps([kept, before - resident(), heap[1].split()]))
"""


def freed(**own: str) -> list:
    """What keep_heap returns, MiB that went back to the system, and flags of the heap's pages."""
    plain = {k: v for k, v in environment().items() if not k.startswith(OTHERS)}
    command = [sys.executable, "-c", FREED]
    done = subprocess.run(command, env={**plain, **own}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_freed_memory_stays_in_large_pages():
    kept, returned, flags = freed()
    assert kept and returned < 10
    if LARGE_PAGES.exists() and "[never]" not in LARGE_PAGES.read_text():
        assert "hg" in flags


def test_a_users_own_settings_stay():
    kept, returned, flags = freed(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="4194304")
    assert not kept and returned > 90
    assert "hg" not in flags
