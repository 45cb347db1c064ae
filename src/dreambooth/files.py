"""Write files whole or not at all, hash them, and read and write tables.

A file or folder in the cache is either absent or whole. It is written under a temporary name in
the same folder, flushed to the disk, and renamed. Parallel jobs of a sweep take a lock first
(`locks`).
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError, reason
from dreambooth.scratch import EARLIER, make_scratch

# -- keys and hashes --------------------------------------------------------------------------


def cache_key(**facts: object) -> str:
    """Hash named facts, which are JSON values: 16 hex digits that change when any fact does.

    >>> cache_key(model="pocket", steps=20) == cache_key(steps=20, model="pocket")
    True
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """Hash a file's bytes: SHA-256, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, files: Iterable[Path] | None = None) -> dict[str, str]:
    """Hash each file below a folder: its relative name => SHA-256, sorted by name.

    Args:
        files: those that count, in any order; all of them by default.
    """
    chosen = folder.rglob("*") if files is None else files
    names = {path.relative_to(folder).as_posix(): path for path in chosen if path.is_file()}
    return {name: file_hash(names[name]) for name in sorted(names)}


def folder_hash(folder: Path, files: Iterable[Path] | None = None) -> str:
    """Hash the relative names and the bytes of files below a folder: 16 hex digits.

    Args:
        files: as in `file_hashes`.
    """
    return cache_key(**file_hashes(folder, files))


def bytes_of(places: Iterable[Path]) -> int:
    """Add up the sizes of files, and of every file below folders, in bytes."""
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


# -- whole files ------------------------------------------------------------------------------


def readable_size(count: float) -> str:
    """Write a number of bytes for a reader.

    >>> readable_size(3 * 2**30), readable_size(53.4 * 2**20), readable_size(3e5)
    ('3.0 GiB', '53 MiB', '0.29 MiB')
    """
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**20:.2f} MiB"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder, which becomes `path` on success.

    Works for a file and for a folder, which the caller makes at the temporary path. An error
    leaves `path` as it was and removes what was written.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    with room(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = make_scratch(path)
        temporary, earlier = scratch / path.name, scratch / EARLIER
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
def atomic_files(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder whose files take their places in `folder` on success.

    As `atomic` does for each of them, but flushed together, which costs less than one by one.

    Raises:
        UserError: the disk is full.
    """
    folder = Path(folder)
    with room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = make_scratch(folder / "files")
        try:
            yield scratch
            _flush(scratch)
            for file in sorted(scratch.iterdir()):
                os.replace(file, folder / file.name)
            _flush(folder, recurse=False)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links.

    Raises:
        FileNotFoundError: no such file.
        UserError: the disk is full.
    """
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk that holds `folder` into a UserError."""
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        raise UserError(
            f"The disk that holds {folder} is full: free some room and run the same command "
            "again; every file that was finished before is whole."
        ) from error


def disk_full(error: BaseException | None) -> bool:
    """Tell whether a full disk or quota caused an error; libraries wrap it in their own types."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if f"os error {errno.ENOSPC}" in str(error):  # safetensors
            return True
        error = error.__cause__ or error.__context__
    return False


def _flush(path: Path, recurse: bool = True) -> None:
    """Flush a file to the disk, or a folder and what it holds (fsync)."""
    entries = sorted(path.rglob("*")) if recurse and path.is_dir() else []
    for entry in [*(e for e in entries if e.is_file() or e.is_dir()), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- formats ----------------------------------------------------------------------------------


def write_json(path: str | Path, value: object) -> None:
    """Write JSON atomically, indented, with a newline at the end."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, which is data: nothing in it is resolved or run.

    Raises:
        UserError: a file that is missing, damaged, or holds anything else; the text says what is
            wrong, and the caller what to do.
    """
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read (it holds no JSON object)")
    return value


@contextmanager
def reading(path: str | Path, fix: str) -> Iterator[None]:
    """Turn whatever a damaged record at `path` causes in the block into one sentence.

    Args:
        fix: what the user can do, in words.

    Raises:
        UserError: the record lacks something or holds another kind of value.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path} is damaged (it lacks {error}): {fix}.") from error
    except (OSError, ValueError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): {fix}.") from error


def write_csv(
    path: str | Path, rows: Iterable[Mapping], columns: Sequence[str] | None = None
) -> None:
    """Write a table atomically, with a header.

    Args:
        rows: one mapping per row; a missing value and None are an empty cell.
        columns: what to write, in this order; by default every key, in the order of appearance.
    """
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a table with a header: one dictionary per row.

    Raises:
        UserError: a file that is missing or is no table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if any(None in row for row in rows):
            raise csv.Error("a row has more cells than the header")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): write it as CSV.") from error
