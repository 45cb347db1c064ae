"""What each stage of a run costs: seconds, peak memory, bytes on the disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dreambooth.training.callbacks import peak_memory_gib


class Costs:
    """`stages[name]` holds `seconds`, `peak_memory_gib` and `bytes` of what the stage wrote.

    A stage that found its work in the cache costs what finding it took; its bytes are those of
    the result all the same. `earlier` are the costs of the sittings that a resumed run had before:
    seconds add up and the higher peak stays.
    """

    def __init__(self, earlier: dict | None = None) -> None:
        self.earlier = earlier or {"seconds": 0.0, "peak_memory_gib": 0.0, "stages": {}}
        self.stages: dict[str, dict] = dict(self.earlier["stages"])
        self.started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[list[Path]]:
        """Measure what happens inside; append the result's files and folders to the list given."""
        places: list[Path] = []
        _reset_peak()
        start = time.monotonic()
        yield places
        before = self.earlier["stages"].get(name, {"seconds": 0.0, "peak_memory_gib": 0.0})
        self.stages[name] = {
            "seconds": round(before["seconds"] + time.monotonic() - start, 2),
            "peak_memory_gib": max(before["peak_memory_gib"], round(peak_memory_gib(), 3)),
            "bytes": bytes_of(places),
        }

    @property
    def totals(self) -> dict:
        """Seconds of all sittings and the highest peak of all stages."""
        peaks = [stage["peak_memory_gib"] for stage in self.stages.values()]
        return {
            "seconds": round(self.earlier["seconds"] + time.monotonic() - self.started, 2),
            "peak_memory_gib": max([*peaks, round(peak_memory_gib(), 3)]),
        }

    @property
    def record(self) -> dict:
        """Totals and stages, as plain values; what a later sitting is given as `earlier`."""
        return {**self.totals, "stages": self.stages}


def bytes_of(places: Iterable[Path]) -> int:
    """Bytes of files, and of every file below folders."""
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _reset_peak() -> None:
    """Let the peak begin again at what is in use now, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # Linux alone has it; elsewhere the peak is that of the run so far
            Path("/proc/self/clear_refs").write_text("5")
