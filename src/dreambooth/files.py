"""Work cached by what it depends on: keys, atomic files, locks.

A file or folder in the cache is either absent or whole. It is written under a temporary name
beside its place, flushed to the disk, and renamed; parallel jobs of a sweep take a lock first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dreambooth.errors import UserError


def cache_key(**facts: object) -> str:
    """16 hex digits that change when any named fact changes; facts are JSON values."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold `<path>.lock`; waits for another process that holds it.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    lock = FileLock(f"{path}.lock")
    with _room(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's own folder; on success it becomes `path`.

    Works for a file or a folder (make the folder at the yielded path). An error leaves `path`
    as it was and removes what was begun.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    with _room(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary, earlier = scratch / path.name, scratch / "earlier"
        try:
            yield temporary
            _flush(temporary)
            if temporary.is_dir() and path.exists():
                os.rename(path, earlier)  # a folder cannot be renamed onto a folder
            os.replace(temporary, path)
            _flush(path.parent, recurse=False)
        finally:
            if earlier.exists() and not path.exists():
                os.rename(earlier, path)
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk below `folder` in the user's words."""
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        raise UserError(
            f"The disk that holds {folder} is full: free some room and run the same command "
            "again; everything written before is whole."
        ) from error


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is behind an error: libraries wrap it in types of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if f"os error {errno.ENOSPC}" in str(error):  # safetensors
            return True
        error = error.__cause__ or error.__context__
    return False


def _flush(path: Path, recurse: bool = True) -> None:
    """fsync a file, or a folder and what it holds."""
    entries = sorted(path.rglob("*")) if recurse and path.is_dir() else []
    for entry in [*(e for e in entries if e.is_file()), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON atomically, indented, with a newline at the end."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def bytes_of(places: Iterable[Path]) -> int:
    """Add up the bytes of files, and of every file below folders."""
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
