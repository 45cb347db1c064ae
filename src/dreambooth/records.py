"""Records that find damage: JSON that holds its own hash, and those of the tables beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import file_hash, read_csv, read_json, write_json

OWN, TABLES = "sha256", "tables"  # keys of the hashes
FIX = "copy the run again, or run its command again"  # of what a run has written


def write_record(path: Path, record: Mapping[str, Any], tables: Iterable[str] = ()) -> None:
    """Write a record as JSON, with its own SHA-256 and those of tables in its folder.

    Args:
        tables: names of files; those that are not there are left out.
    """
    places = [path.parent / name for name in tables]
    known = {place.name: file_hash(place) for place in places if place.exists()}
    whole = {**{key: record[key] for key in record if key != OWN}, TABLES: known}
    write_json(path, {**whole, OWN: json_hash(whole)})


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote; a record without a hash is an earlier version's.

    Raises:
        UserError: a file that is missing, is no JSON object, or has changed since it was written.
    """
    record = read_json(path)
    written = record.pop(OWN, None)
    if written is not None and written != json_hash(record):
        raise UserError(
            f"{path} has changed since it was written (take its line {OWN!r} out if that was meant)"
        )
    return record


def read_table(path: Path, record: Mapping[str, Any], fix: str) -> list[dict[str, str]]:
    """Read a table of a record's folder; one that never was there is empty.

    Args:
        record: what `read_record` read; an earlier version's names no table, and accepts any.
        fix: what the user can do, in words.

    Raises:
        UserError: it is no table, or has changed since its record was written.
    """
    hashes = record.get(TABLES)
    known = hashes.get(path.name) if isinstance(hashes, Mapping) else None
    if known is not None and not (path.is_file() and file_hash(path) == known):
        raise UserError(f"{path} has changed since its record was written: {fix}.")
    return read_csv(path) if path.exists() else []


def first_changed(folder: Path, hashes: Mapping[str, str]) -> Path | None:
    """Find the first file of a folder that is missing, or has other bytes than its SHA-256 says.

    Args:
        hashes: as `files.file_hashes` made them; every one of the files is read.
    """
    for name, digest in sorted(hashes.items()):
        path = folder / name
        if not path.is_file() or file_hash(path) != digest:
            return path
    return None


def amend_record(path: Path, **changes: object) -> None:
    """Change values of a record, if it can be read, and forget its tables, which change too."""
    try:
        write_record(path, {**read_record(path), **changes})
    except UserError:  # no record, or one that cannot be read
        return


def json_hash(record: Mapping[str, Any]) -> str:
    """Hash a record as it is after it was written as JSON and read."""
    text = json.dumps(json.loads(json.dumps(record)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
