"""What each stage of a run costs: seconds, peak memory, bytes on the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import bytes_of, reading
from dreambooth.records import read_record
from dreambooth.training.logs.memory import peak_memory_gib, reset_peak_memory

log = logging.getLogger(__name__)

STOPPED = "costs.json"  # what a run had cost when it was stopped


class Costs:
    """What a run's stages cost: `stages[name]` holds `seconds`, `peak_memory_gib` and `bytes`.

    A stage that finds its work in the cache costs the time of finding it; its bytes are those of
    the result in either case. `earlier` is the record of an earlier session of the run: its seconds
    are added, and the higher peak is kept.
    """

    def __init__(self, earlier: dict[str, Any] | None = None) -> None:
        self.earlier = earlier or {"seconds": 0.0, "peak_memory_gib": 0.0, "stages": {}}
        self.stages: dict[str, dict[str, Any]] = dict(self.earlier["stages"])
        self.started = time.monotonic()
        self.estimated_gib: float | None = None  # peak memory of training, said beforehand

    @classmethod
    def resumed(cls, folder: Path) -> Costs:
        """Read the costs of earlier sessions of the run in `folder`, stopped or finished."""
        for path in (folder / STOPPED, folder / "run.json"):
            if not path.exists():
                continue
            try:
                with reading(path, "costs are counted from this session on"):
                    record = read_record(path)
                    return cls(_whole(record if path.name == STOPPED else record["costs"]))
            except UserError as error:
                log.warning("%s", error)
                break
        return cls()

    @contextmanager
    def stage(self, name: str) -> Iterator[list[Path]]:
        """Measure what happens inside; append the stage's files and folders to the list."""
        places: list[Path] = []
        reset_peak_memory()
        start = time.monotonic()
        yield places
        before = self.earlier["stages"].get(name, {"seconds": 0.0, "peak_memory_gib": 0.0})
        self.stages[name] = {
            "seconds": round(before["seconds"] + time.monotonic() - start, 2),
            "peak_memory_gib": max(before["peak_memory_gib"], round(peak_memory_gib(), 3)),
            "bytes": bytes_of(places),
        }

    @property
    def totals(self) -> dict[str, float]:
        """Total seconds and the highest peak of all stages, earlier sessions included."""
        peaks = [stage["peak_memory_gib"] for stage in self.stages.values()]
        return {
            "seconds": round(self.earlier["seconds"] + time.monotonic() - self.started, 2),
            "peak_memory_gib": max([*peaks, round(peak_memory_gib(), 3)]),
        }

    @property
    def record(self) -> dict[str, Any]:
        """Totals and stages as plain values; a resumed run gets them as `earlier`."""
        said = {} if self.estimated_gib is None else {"estimated_training_gib": self.estimated_gib}
        return {**self.totals, **said, "stages": self.stages}


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    """Return the costs in a record.

    Raises:
        KeyError, TypeError, ValueError: one that is missing or no number.
    """
    for each in (record, *record["stages"].values()):
        for key in ("seconds", "peak_memory_gib"):
            float(each[key])
    return record


def reused_steps(costs: Mapping[str, Any]) -> int:
    """Count the optimizer steps of a run that another one had trained, from a run's record."""
    phases = [part for name, part in costs.items() if name.startswith("phase_")]
    return sum(phase["reused"]["step"] for phase in phases if phase.get("reused"))
