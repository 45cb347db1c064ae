"""The numbers of a run, one row per step, in `metrics.csv`; resuming loses and repeats none."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import write_csv
from dreambooth.records import FIX, json_hash, read_record, read_table

log = logging.getLogger(__name__)

FILE = "metrics.csv"
CURVE = "curve/"  # starts the names of scores while training, which curve.csv holds too
CHANGED = "%s has changed since the checkpoint was written. The log begins at step %d."
WRITE_EVERY = 5.0  # seconds between two writes while training; a checkpoint writes in any case


class RunLog:
    """The rows of `metrics.csv`, by the run's step.

    Row n holds what was measured of the weights after n updates (the curve's scores) and of the
    update that follows them (losses, images per second, memory). It is written before a checkpoint
    of step n + 1 is, so whoever resumes from that finds rows 0 to n.

    Args:
        writes: whether this process writes the file, as rank 0 does.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.path, self.writes = folder / FILE, writes
        self.rows: dict[int, dict[str, float | str]] = {}
        self.due = time.monotonic() + WRITE_EVERY

    @classmethod
    def resumed(
        cls, folder: Path, done: int, writes: bool = True, sha256: str | None = None
    ) -> RunLog:
        """Go on with a run's log: its rows before step `done`, but for the curve's scores.

        A log that cannot be read, or has changed, is begun anew, with a warning.

        Args:
            sha256: what `hash_before(done)` was when the checkpoint was written, if that is known.
        """
        made = cls(folder, writes)
        try:
            rows = read_rows(folder, _record(folder)) if done else []
        except UserError as error:
            log.warning("%s The log begins at step %d.", error, done)
            return made
        for row in rows:
            step = int(row.pop("step"))
            if step < done:
                made.rows[step] = {k: v for k, v in row.items() if v and not k.startswith(CURVE)}
        if sha256 not in (None, made.hash_before(done)):
            log.warning(CHANGED, made.path, done)
            made.rows = {}
        return made

    def hash_before(self, step: int) -> str:
        """Hash the rows before a step, but for the curve's scores, as the file holds them."""
        rows = {
            number: {k: str(v) for k, v in row.items() if not k.startswith(CURVE)}
            for number, row in self.rows.items()
            if number < step
        }
        return json_hash({str(number): row for number, row in rows.items() if row})

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        """Put numbers into the row of a step."""
        self.rows.setdefault(step, {}).update(numbers)
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write the file, unless there is no row, or the run's folder was removed meanwhile.

        Raises:
            UserError: the disk is full.
        """
        if self.writes and self.rows and self.path.parent.is_dir():
            rows = [{"step": step, **self.rows[step]} for step in sorted(self.rows)]
            names = sorted({name for row in rows for name in row} - {"step"})
            write_csv(self.path, rows, ["step", *names])
        self.due = time.monotonic() + WRITE_EVERY


def read_rows(folder: Path, record: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """Read a run's log; a row without its step is left out.

    Args:
        record: the run.json of a run that has finished, which knows the log's hash.

    Raises:
        UserError: a file that is no table, or has changed since the record was written.
    """
    rows = read_table(folder / FILE, record or {}, FIX)
    return [row for row in rows if (row.get("step") or "").isdecimal()]


def _record(folder: Path) -> dict[str, Any]:
    """Read the record of a run that had finished, which knows its log's hash; {} of any other."""
    try:
        return read_record(folder / "run.json")
    except UserError:
        return {}
