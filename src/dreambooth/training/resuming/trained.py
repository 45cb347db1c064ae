"""Trained weights in the cache: checkpoints of one training, which runs share within a bound."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dreambooth.errors import UserError
from dreambooth.files import disk_full, file_hash, link
from dreambooth.scratch import remove_leftovers
from dreambooth.training.logs.run_log import CURVE, read_rows
from dreambooth.training.resuming.checkpoint_records import (
    read_checkpoint_record,
    record_path,
    write_checkpoint_record,
)

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at what another process trains


@dataclass(frozen=True)
class Published:
    """A checkpoint in the cache, with its record: what a run's own record holds, and more.

    `runs` are the folders of the runs that it is of, the one that trained it first; `log` holds
    what was logged up to it; `is_end` tells that some run trains to this step and no further.
    """

    path: Path
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps of the phase that are done."""
        return self.record["step"]

    @property
    def runs(self) -> list[str]:
        """The folders of the runs whose training it is."""
        return self.record["runs"]


class Trained:
    """The checkpoints of one training, `<root>/<key>/step-<n>.ckpt`, as a run shares them.

    Whoever trains holds `lock`, which the system releases when its process dies. Reading needs no
    lock: a checkpoint counts once its record is there, and is verified when it is taken.

    Args:
        run: the folder of the run that reads and writes here.
        last: the step at which its training ends.
        steps_before: optimizer steps of the run's earlier phases, which its logs count too.
    """

    def __init__(
        self, root: Path, key: str, keep_gib: float, run: Path, last: int, steps_before: int
    ) -> None:
        self.root, self.key, self.folder = root, key, root / key
        self.keep_gib, self.run = keep_gib, run.absolute()
        self.last, self.steps_before = last, steps_before
        self.lock = FileLock(f"{self.folder}.lock")
        self.has_waited = False

    # -- who trains ---------------------------------------------------------------------------

    def hold(self) -> bool:
        """Try to become the run that trains; tell whether it is, after a second at most.

        The first time that it is not, this is logged, and the other is asked to leave a checkpoint
        at this run's last step on its way.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "running.txt"
        try:
            self.lock.acquire(timeout=POLL if self.has_waited else 0)
        except Timeout:
            if not self.has_waited:
                other = note.read_text("utf-8") if note.exists() else "another run"
                log.info("Waiting for %s, which trains the same weights.", other)
                self._wanted(self.last).touch()
            self.has_waited = True
            return False
        note.write_text(str(self.run), "utf-8")
        self._wanted(self.last).unlink(missing_ok=True)
        remove_leftovers(self.folder)  # of a run that died while this one waited
        return True

    def release(self) -> None:
        """Let another run train."""
        self.lock.release()

    def is_wanted(self, step: int) -> bool:
        """Tell whether a run that waits would go no further than `step`."""
        return self._wanted(step).exists()

    def _wanted(self, step: int) -> Path:
        return self.folder / f"wanted-{step:06d}"

    # -- checkpoints --------------------------------------------------------------------------

    def published(self, after: int = 0) -> list[Published]:
        """List the checkpoints beyond step `after`, up to the last one, the newest first."""
        found = [_read(path) for path in sorted(self.folder.glob("step-*.ckpt"), reverse=True)]
        return [each for each in found if each and after < each.step <= self.last]

    def is_of(self, folder: Path) -> bool:
        """Tell whether a run's checkpoints in `folder` are of this training.

        The run may have been trained anew since it was listed, or the folder is another run's now:
        its curve and its samples then belong to other weights.
        """
        return any(_key(path) == self.key for path in folder.glob("step-*.ckpt.json"))

    def take(self, published: Published, folder: Path) -> Path | None:
        """Link a checkpoint into a run's own folder; None if it is damaged or was removed.

        A damaged one is removed, with a warning. The run's own record says which run trained it.
        """
        target, record = folder / published.path.name, dict(published.record)
        try:
            link(published.path, target)
        except FileNotFoundError:
            return None
        if file_hash(target) != record["sha256"]:
            log.warning("%s was damaged and is removed: it is not reused.", published.path)
            target.unlink()
            _remove(published.path)
            return None
        reused = {key: record[key] for key in ("step", "seconds")}
        own = {key: record[key] for key in ("sha256", "step", "facts", "key", "seconds")}
        write_checkpoint_record(target, {**own, "reused": {"run": published.runs[0], **reused}})
        # written again, it is also the most recently used one
        record["runs"] = list(dict.fromkeys([*published.runs, str(self.run)]))
        record["is_end"] |= published.step == self.last
        write_checkpoint_record(published.path, record)
        return target

    def publish(self, path: Path) -> None:
        """Share a checkpoint of the run; an error is a warning, for the run has its own.

        Earlier ones at which no run ends are removed, and the least recently used of all trainings
        while there is not enough room.
        """
        target = self.folder / path.name
        try:
            record = read_checkpoint_record(path)
            step, earlier = record["step"], _read(target)
            runs = [*(earlier.runs if earlier else []), str(self.run)]
            record["runs"] = list(dict.fromkeys(runs))
            record["is_end"] = step == self.last or self.is_wanted(step)
            record["log"] = self._log(step)
            link(path, target)
            write_checkpoint_record(target, record)
            self._wanted(step).unlink(missing_ok=True)
            for each in self.published():
                if each.step < step and not each.record["is_end"]:
                    _remove(each.path)
            prune(self.root, self.keep_gib)
        except (OSError, ValueError, UserError) as error:
            why = "the cache's disk is full" if disk_full(error) else error
            log.warning("%s is not shared with other runs (%s).", path, why)

    def _log(self, step: int) -> list[dict[str, float]]:
        """List what the run logged in this phase, up to `step`, but for the curve's scores."""
        first, end = self.steps_before, self.steps_before + step
        rows = [row for row in read_rows(self.run) if first <= int(row["step"]) < end]
        own = [
            {k: float(v) for k, v in row.items() if v and not k.startswith(CURVE)} for row in rows
        ]
        return [row for row in own if row.keys() != {"step"}]


def prune(root: Path, keep_gib: float) -> None:
    """Remove the least recently used checkpoints below `root` until at most `keep_gib` are left.

    What a running process trains stays, even where that is more. One that a run's folder holds too,
    by a link, does not count: removing it here would free nothing, and cost a training.
    """
    used: dict[Path, tuple[float, int]] = {}
    for path in root.glob("*/step-*.ckpt"):
        try:
            record = record_path(path)
            times = record if record.exists() else path
            found = path.stat()
            if found.st_nlink == 1:
                used[path] = times.stat().st_mtime, found.st_size
        except FileNotFoundError:  # another process has removed it
            continue
    kept = sum(size for _, size in used.values())
    for path in sorted(used, key=lambda path: used[path]):
        if kept <= keep_gib * 2**30:
            return
        lock = FileLock(f"{path.parent}.lock")
        try:
            with lock.acquire(timeout=0):
                _remove(path)
                kept -= used[path][1]
        except Timeout:
            continue


def _read(path: Path) -> Published | None:
    """Read the record of a checkpoint in the cache; None where it is not whole."""
    try:
        record = read_checkpoint_record(path)
        is_whole = isinstance(record["is_end"], bool) and len(record["runs"]) > 0
        is_whole &= all(isinstance(run, str) for run in record["runs"])
        is_whole &= all(float(row["step"]) >= 0 for row in record["log"])
        return Published(path, record) if is_whole else None
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _key(record: Path) -> str | None:
    """Read under which key the training of a run's checkpoint is shared; None if it is not."""
    try:
        return json.loads(record.read_text("utf-8")).get("key")
    except (OSError, ValueError, AttributeError):
        return None


def _remove(path: Path) -> None:
    """Remove the record first, so that a partly removed checkpoint does not count."""
    record_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
