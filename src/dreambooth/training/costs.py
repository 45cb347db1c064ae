"""What each stage of a run costs: seconds, peak memory, bytes on the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreambooth.files import bytes_of
from dreambooth.training.memory import peak_memory_gib, reset_peak_memory

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
        if (folder / STOPPED).exists():
            return cls(json.loads((folder / STOPPED).read_text()))
        if (folder / "run.json").exists():
            return cls(json.loads((folder / "run.json").read_text())["costs"])
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
