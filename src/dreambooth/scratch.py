"""Temporary folders that name their owner, so that what a dead process left is told from work.

Whole files are written in a temporary folder beside their target. Its name holds the owner's mark:
the machine, the process, and when that started. Readers skip such folders.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

EARLIER = "earlier"  # in a temporary folder: what it replaces, while that is moved away
DAY = 86_400  # seconds for which the temporary folder of another machine is left alone
_NAME = re.compile(r"\.(?P<target>.+)\.tmp-(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-.+")


def make_scratch(target: Path) -> Path:
    """Make a temporary folder of this process beside `target`; return its path."""
    pid = os.getpid()
    mark = f"{_place()}-{pid}-{_start_of(pid) or 0}"
    return Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-{mark}-", dir=target.parent))


def find_files(folder: Path, name: str) -> list[Path]:
    """List the files called `name` below `folder`, sorted; none in hidden or temporary folders."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        if name in files:
            found.append(Path(place) / name)
    return sorted(found)


def remove_leftovers(folder: Path, deep: bool = False) -> None:
    """Remove the temporary folders of dead processes in `folder`, and say how much that was.

    What one of them had moved away and not yet replaced is moved back. Those of another machine
    are removed if they are a day old, since nobody here can know whether their process is alive.

    Args:
        deep: look below `folder` too.
    """
    removed = size = 0
    for scratch in list(_scratches(folder, deep)):
        if not _is_left(scratch):
            continue
        match = _NAME.fullmatch(scratch.name)
        assert match is not None
        target = scratch.parent / match["target"]
        with suppress(OSError):  # another process does the same
            size += sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
            if (scratch / EARLIER).exists() and not target.exists():
                os.rename(scratch / EARLIER, target)
        shutil.rmtree(scratch, ignore_errors=True)
        removed += not scratch.exists()
    if removed:
        log.info("Removed %.1f MiB that killed processes had left in %s.", size / 2**20, folder)


def _scratches(folder: Path, deep: bool) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        own = [name for name in folders if _NAME.fullmatch(name)]
        yield from (Path(place) / name for name in own)
        folders[:] = [name for name in folders if name not in own] if deep else []


def _is_left(scratch: Path) -> bool:
    """Tell whether the process that a temporary folder names is dead."""
    match = _NAME.fullmatch(scratch.name)
    if match is None:
        return False
    if match["place"] != _place():
        with suppress(OSError):
            return time.time() - scratch.stat().st_mtime > DAY
        return False
    pid = int(match["pid"])
    return not _is_alive(pid) or (_start_of(pid) or 0) != int(match["start"])


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # where this call would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _start_of(pid: int) -> int | None:
    """Read when a process started, in ticks since the machine did; None where /proc is absent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


@cache
def _place() -> str:
    """Hash what the number of a process belongs to: the machine, its start, its container."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
