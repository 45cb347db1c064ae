"""Records of checkpoints: `<name>.ckpt.json` says what each is, and finds damage to both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import file_hash, read_json, write_json
from dreambooth.records import json_hash

OWN = "record_sha256"  # key of the record's own hash, which earlier versions did not write
KINDS = {"sha256": str, "step": int, "facts": dict, "seconds": int | float}
KINDS |= {"key": str | None, "reused": dict | None, "log_sha256": str | None}
MISSING = {"key": None, "seconds": 0.0, "reused": None, "log_sha256": None}


def record_path(path: str | Path) -> Path:
    """Return the path of a checkpoint's record: `last.ckpt` => `last.ckpt.json`."""
    return Path(f"{path}.json")


def write_checkpoint_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write the record of a checkpoint, which makes it valid."""
    whole = {key: value for key, value in record.items() if key != OWN}
    write_json(record_path(path), {**whole, OWN: json_hash({**MISSING, **whole})})


def verify(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's record, if the file is the one that the record describes.

    Raises:
        UserError: no such file, no record, or a content that differs from the record.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist: give resume an existing .ckpt.")
    record = read_checkpoint_record(path)
    if record["sha256"] != file_hash(path):
        raise UserError(
            f"The checkpoint {path} is damaged (its SHA-256 differs from its record): "
            "resume from another one."
        )
    return record


def read_checkpoint_record(path: str | Path) -> dict[str, Any]:
    """Read the record of a checkpoint, without reading the checkpoint.

    Returns:
        `sha256` of the checkpoint, `step`, `facts`; `key`, under which the training is shared, or
        None; `seconds` of training up to it, in any run; `reused`, the `run`, `step` and `seconds`
        that the run took over from another one, or None; `log_sha256` of the rows of the run's log
        up to it, or None.

    Raises:
        UserError: no record, or one that is not complete or has changed.
    """
    try:
        record = {**MISSING, **read_json(record_path(path))}
        if record.pop(OWN, None) not in (None, json_hash(record)):
            raise ValueError
        for key, kind in KINDS.items():
            if not isinstance(record[key], kind):
                raise TypeError
        return record
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(
            f"The checkpoint {path} has no readable record {record_path(path).name} beside it: "
            "it was not finished, has changed, or was not written by this project; resume from "
            "another one."
        ) from None
