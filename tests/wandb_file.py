"""Read back what W&B has written offline: the records of a .wandb file, in their order.

The file is a log in LevelDB's format: blocks of 32 KiB, each piece with a CRC, a length and a type.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD, MAGIC = 2**15, 7, b":W&B\xe1\xbe\x00"
FULL, FIRST, LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """Every record of a file; a piece that is cut off ends it."""
    data, position, begun = path.read_bytes(), len(MAGIC), b""
    assert data.startswith(MAGIC), path
    while position + HEAD <= len(data):
        if BLOCK - position % BLOCK < HEAD:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEAD])
        piece = data[position + HEAD : position + HEAD + length]
        position += HEAD + length
        begun = piece if kind in (FULL, FIRST) else begun + piece
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(begun)
            yield record


def whole(path: Path, seconds: float = 10.0) -> list[Any]:
    """The records of a session that has ended: W&B's own process writes the last a little later."""
    until = time.monotonic() + seconds
    while True:
        found = list(records(path)) if path.stat().st_size else []
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.05)


class OfflineRun:
    """What the sessions of one run have written below a folder: `folder/wandb/offline-run-*`."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        self.records = [record for path in self.files for record in whole(path)]

    def of(self, kind: str) -> list[Any]:
        """The records of a kind."""
        return [getattr(r, kind) for r in self.records if r.WhichOneof("record_type") == kind]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, flat at the first level, as the last session leaves it."""
        parts = [u for run in self.of("run") for u in run.config.update]
        parts += [u for config in self.of("config") for u in config.update]
        return {u.key or ".".join(u.nested_key): json.loads(u.value_json) for u in parts}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was logged, without W&B's own columns."""
        rows = [_values(history.item) for history in self.of("history")]
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary's last values."""
        return _values(update for summary in self.of("summary") for update in summary.update)


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Values by key; those of a picture or a table are a dictionary of their own."""
    values: dict[str, Any] = {}
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = values
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return values
