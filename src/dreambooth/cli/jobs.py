"""Jobs that fail: reported as failed under every launcher, and leaving no empty folder."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


class JobFailed(Exception):
    """A job's error in one line, which the job has printed; it travels between processes."""


class SweepFailed(Exception):
    """Some jobs of a sweep failed; the text lists them by the overrides that set them apart."""

    def __init__(self, jobs: Sequence[JobReturn]) -> None:
        failed = [job for job in jobs if job.status == JobStatus.FAILED]
        alike = set.intersection(*(set(job.overrides or []) for job in jobs))
        lines = [f"{len(failed)} of {len(jobs)} runs of this sweep failed:"]
        for job in failed:
            own = [override for override in job.overrides or [] if override not in alike]
            lines.append(f"  {' '.join(own)}: {job._return_value}")
        super().__init__("\n".join(lines))


class FailedJobs(Callback):
    """Hydra callback: remove the output folder of a job that failed before it wrote anything.

    Only folders that the same command has made are removed. The object is pickled with the job, so
    `made` is known in every launcher's processes.
    """

    made: list[Path]

    def on_run_start(self, config: Any, **_: Any) -> None:
        """Note which folders a single job is going to make."""
        self.made = missing(config, "run")

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Note which folders a sweep is going to make."""
        self.made = missing(config, "sweep")

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        """Remove what a failed job left, if that is only Hydra's own notes."""
        if job_return.status == JobStatus.FAILED:
            remove_empty(Path(config.hydra.runtime.output_dir), self.made)

    def on_run_end(self, config: Any, **ended: Any) -> None:
        """Exit before Hydra prints a second line about a failure that the job has explained."""
        if isinstance(ended["job_return"]._return_value, JobFailed):
            sys.exit(2)


def hand_over(code: int) -> None:
    """Give the signal that stopped a run to the handler of the launcher of its job, if it has one.

    submitit's puts the job back into the queue and exits.

    Args:
        code: the run's exit code, 128 + the signal.
    """
    number = code - 128
    if number in (signal.SIGUSR1, signal.SIGUSR2) and callable(signal.getsignal(number)):
        signal.raise_signal(number)


def missing(config: DictConfig, mode: str) -> list[Path]:
    """List the folders, from the innermost, that `hydra.run.dir` or `hydra.sweep.dir` will add."""
    try:
        path = Path(config.hydra[mode].dir).absolute()
    except OmegaConfBaseException:  # Hydra makes none and reports the error
        return []
    return [p for p in (path, *path.parents) if not p.exists()]


def remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Remove `folder` if it holds only Hydra's notes and an empty log, then `made` while empty.

    With an empty `made`, the folder existed before the command, and it stays.
    """
    if not made or not folder.is_dir():
        return
    for entry in folder.iterdir():
        is_log = entry.suffix == ".log" and entry.stat().st_size == 0
        if entry.name not in (".hydra", "multirun.yaml") and not is_log:
            return
    shutil.rmtree(folder, ignore_errors=True)
    for path in made:
        try:
            path.rmdir()
        except OSError:  # it holds something, or is gone
            if path.exists():
                return
