"""What a sweep says while it runs: one line a run, and a bar of all runs above that of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dreambooth.cli.configuration.resolvers import without_folders
from dreambooth.errors import UserError
from dreambooth.study.finished.sweeps import FAILED, SWEEP, SweepPlan

MAIN = {"DINO": "DINO", "CLIP-T class_only": "CLIP-T", "PRES": "PRES"}  # names of metrics, short
SCORES = 3  # in a line


@dataclass(frozen=True)
class Place:
    """A run's place in its sweep.

    Args:
        sweep: the sweep's folder.
        number: of the run, from 1.
        total: of runs.
        name: the overrides that set the run apart; of a path its last part.
        folders: of all runs; empty where nobody knows them beforehand.
        in_parallel: other runs may run at the same time, on this terminal.
    """

    sweep: Path
    number: int
    total: int
    name: str
    folders: Sequence[Path]
    in_parallel: bool

    @classmethod
    def current(cls) -> Place | None:
        """Find the place of the job that Hydra runs now; None for one that is in no sweep."""
        hydra = HydraConfig.get() if HydraConfig.initialized() else None
        if hydra is None or hydra.mode != RunMode.MULTIRUN:
            return None
        sweep, own = Path(hydra.sweep.dir), [str(o) for o in hydra.overrides.task]
        try:
            jobs = SweepPlan.read(sweep).jobs
        except UserError:  # a sweep without a plan
            jobs = ()
        folders = [sweep / job["folder"] for job in jobs]
        unnamed = hydra.job.config.override_dirname.exclude_keys
        parts = what_varies(own, [job["overrides"] for job in jobs], unnamed) or own
        number = int(hydra.job.num) + 1
        total = len(jobs) or int(hydra.sweeper.get("n_trials") or number)
        in_parallel = "basic_launcher" not in hydra.launcher._target_
        name = " ".join(without_folders(part) for part in parts)
        return cls(sweep, number, max(number, total), name, folders, in_parallel)

    def ended(self) -> tuple[int, int]:
        """Count the runs that have ended in this session, and those that had before."""
        began = (self.sweep / SWEEP).stat().st_mtime if self.folders else 0.0
        times = [_ended_at(folder) for folder in self.folders]
        now = sum(t is not None and t > began for t in times)
        return now, sum(t is not None for t in times) - now

    def seconds_left(self) -> float | None:
        """Estimate how long the sweep goes on, by what its runs have taken; None before the first.

        Runs that had finished before this session count for nothing.
        """
        done, before = self.ended()
        if not done:
            return None
        taken = time.time() - (self.sweep / SWEEP).stat().st_mtime
        return taken / done * (self.total - done - before)

    def line(self, what: str) -> str:
        """Write the run's line: its number, its name, `what` became of it, the sweep's end."""
        left = self.seconds_left()
        ends = "" if left is None or left <= 0 else f"  (all by about {clock(left)})"
        return f"{self.number:{len(str(self.total))}}/{self.total}  {self.name}  {what}{ends}"


def what_varies(
    own: Sequence[str], every: Sequence[Sequence[str]], unnamed: Sequence[str]
) -> list[str]:
    """List the overrides that set a run apart from `every` one.

    Args:
        unnamed: keys that are left out, as in the names of folders; a preset adds to them.
    """
    alike = set.intersection(*map(set, every)) if len(every) > 1 else set()
    return [o for o in own if o not in alike and o.partition("=")[0] not in unnamed]


@contextmanager
def in_its_sweep(place: Place | None) -> Iterator[None]:
    """Show a run's bars under that of its sweep, and leave its notes to its log file.

    Runs side by side show no bars: a terminal has one place for them.
    """
    if place is None:
        yield
        return
    from dreambooth.sampling.progress import Whole, bars_within, without_bars

    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and logging.getLogger().level > logging.DEBUG:
            handler.setLevel(logging.WARNING)
    left = place.seconds_left()
    ends = None if left is None else time.monotonic() + left
    whole = Whole("Runs", place.total, place.number - 1, ends, place.name)
    with without_bars() if place.in_parallel else bars_within(whole):
        yield


def result(costs: Mapping[str, Any], summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a run's main scores, its seconds, and the steps that another run had trained.

    Args:
        costs: of its record.
        summary: variant id => a record with its `metric` and `mean`, as in metrics.json.
    """
    from dreambooth.training.logs.costs import reused_steps  # imports torch

    means = {entry["metric"]: entry["mean"] for entry in summary.values()}
    names = [*MAIN, *(name for name in means if name not in MAIN and "real images" not in name)]
    shown = [f"{MAIN.get(name, name)} {means[name]:.3f}" for name in names if name in means]
    reused = reused_steps(costs)
    cost = f"{costs['seconds']:.0f} s" + (f", {reused} steps reused" if reused else "")
    return "  ".join([*shown[:SCORES], cost])


def clock(seconds: float) -> str:
    """Write the time in so many seconds: `23:41`, or with its day if that is another."""
    now, then = time.localtime(), time.localtime(time.time() + seconds)
    is_today = now.tm_yday == then.tm_yday and now.tm_year == then.tm_year
    return time.strftime("%H:%M" if is_today else "%a %d %b %H:%M", then)


def _ended_at(folder: Path) -> float | None:
    """Return when a run finished or failed; None for one that did neither."""
    for name in (FAILED, "run.json"):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return None
