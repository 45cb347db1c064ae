"""Locks between processes: one at a time in a part of the cache, one run in a run's folder.

The operating system releases a lock when its owner dies, so a dead owner's is free to take.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dreambooth.errors import UserError
from dreambooth.files import room, write_json
from dreambooth.scratch import remove_leftovers

log = logging.getLogger(__name__)

SILENT = 3.0  # seconds of waiting before it is said
RUN_LOCK, OWNER = ".lock", ".owner.json"  # in the folder of a run: the lock, and who holds it


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock file `<path>.lock`; wait while another process holds it, and say so.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    lock = FileLock(f"{path}.lock")
    with room(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=SILENT)
        except Timeout:
            log.info("Waiting for another process, which is at work on %s.", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held(
    folder: Path, otherwise: str = "choose another folder with hydra.run.dir=DIR"
) -> Iterator[None]:
    """Hold the folder of a run, which no other run and no scoring may write into meanwhile.

    What killed processes left in it is removed.

    Args:
        otherwise: what to do instead of waiting, in words.

    Raises:
        UserError: another process holds it; names the process and its machine.
    """
    lock, note = FileLock(folder / RUN_LOCK), folder / OWNER
    with room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder} is in use: {_owner(note)} is at work in it. Wait until that has ended, "
                f"or {otherwise}."
            ) from None
        try:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            write_json(note, {"process": os.getpid(), "host": platform.node(), "since": since})
            remove_leftovers(folder, deep=True)
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _owner(note: Path) -> str:
    """Name the process that holds a run's folder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(note.read_text("utf-8"))
        return f"process {owner['process']} on {owner['host']}, since {owner['since']},"
    return "another process"
