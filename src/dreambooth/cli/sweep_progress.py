"""Which run of how many a sweep is on, and when it will end: a line after each run."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from dreambooth.cli.jobs import is_training
from dreambooth.errors import UserError
from dreambooth.study.sweeps import FAILED, SweepPlan


class SweepProgress(Callback):
    """Hydra callback: print the line. Each job has a copy of it, so it counts nothing itself."""

    started = 0.0

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Note when the sweep began."""
        self.started = time.time()

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        """Print how many runs have ended, whoever ran them."""
        if config.hydra.mode == RunMode.MULTIRUN and is_training(config) and not config.dry_run:
            line = progress_line(Path(config.hydra.sweep.dir), self.started, time.time())
            if line is not None:
                print(line, flush=True)


def progress_line(folder: Path, started: float, now: float) -> str | None:
    """Say how many runs of a sweep have ended, and when the others will have; None without a plan.

    The rate is that of the runs that ended since `started`, however many run side by side.

    Args:
        started: when this command began, in seconds since 1970; earlier runs cost it no time.
    """
    try:
        jobs = SweepPlan.read(folder).jobs
    except UserError:
        return None
    ends = [_ended(folder / job["folder"]) for job in jobs]
    ended = [end for end in ends if end is not None]
    own, left = sum(end >= started for end in ended), len(jobs) - len(ended)
    line = f"{len(ended)} of {len(jobs)} runs have ended"
    if not left or not own:
        return f"{line}.\n"
    seconds = round((now - started) / own * left)
    clock = "%H:%M" if seconds < 12 * 3600 else "%Y-%m-%d %H:%M"
    until = datetime.fromtimestamp(now + seconds).strftime(clock)
    return f"{line}; the others take about {timedelta(seconds=seconds)}, until {until}.\n"


def _ended(run: Path) -> float | None:
    """Return when a run finished or failed, in seconds since 1970; None while it has not."""
    if (run / FAILED).exists():
        return (run / FAILED).stat().st_mtime
    path = run / "run.json"
    try:
        record = json.loads(path.read_text("utf-8"))
        return path.stat().st_mtime if record["finished"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
