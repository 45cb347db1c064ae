"""Jobs that fail: reported as failed under every launcher, with the reason in their folder."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dreambooth.locks import RUN_LOCK
from dreambooth.scratch import find_files
from dreambooth.study.finished.sweeps import FAILED, SWEEP, failure, record_failure

NOTES = (".hydra", "multirun.yaml", SWEEP, FAILED, RUN_LOCK)  # what a folder holds before any work


class JobFailed(Exception):
    """A job's error in one line, which the job has printed; it travels between processes.

    `details` is the traceback of an error that the user cannot fix.
    """

    def __init__(self, text: str, details: str | None = None) -> None:
        super().__init__(text, details)
        self.text, self.details = text, details

    def __str__(self) -> str:
        return self.text


class SweepFailed(Exception):
    """Some jobs of a sweep failed; the text lists them by the overrides that set them apart."""

    def __init__(self, jobs: Sequence[JobReturn], again: str | None = None) -> None:
        failed = [job for job in jobs if job.status == JobStatus.FAILED]
        alike = set.intersection(*(set(job.overrides or []) for job in jobs))
        alike = alike if len(jobs) > 1 else set()  # nothing sets the only run apart
        lines = [f"{len(failed)} of {len(jobs)} runs of this sweep failed:"]
        for job in failed:
            own = [override for override in job.overrides or [] if override not in alike]
            name = " ".join(own or job.overrides or ["the run"])  # a single run differs in nothing
            lines.append(f"  {name}: {job._return_value}")
        if again is not None:
            lines.append(f"Run these again with {again}")
        super().__init__("\n".join(lines))


class FailedJobs(Callback):
    """Hydra callback: what a job that failed leaves in its output folder.

    A single job that had written nothing leaves no folder, if this command made it. A job of a
    sweep leaves `failed.json`, with which `remove_refused` finds it if no job of the sweep did
    anything. What is left holds the error in its log. The object is pickled with the job, so `made`
    is known in every launcher's processes.
    """

    made: list[Path]

    def on_run_start(self, config: Any, **_: Any) -> None:
        """Note which folders a single job is going to make."""
        self.made = missing(config, "run")

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Note which folders a sweep is going to make."""
        self.made = missing(config, "sweep")

    def on_job_start(self, config: Any, **_: Any) -> None:
        """Forget that the job failed before."""
        (Path(config.hydra.runtime.output_dir) / FAILED).unlink(missing_ok=True)

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        """Remove or record what a failed job left; a dry run leaves nothing."""
        folder = Path(config.hydra.runtime.output_dir)
        if config.get("dry_run"):
            remove_empty(folder, self.made)
        if job_return.status != JobStatus.FAILED:
            return
        if config.hydra.mode == RunMode.MULTIRUN and is_training(config):
            record_failure(folder, str(job_return._return_value), started=not is_empty(folder))
        else:
            remove_empty(folder, self.made)
        if folder.exists():
            log_error(job_return._return_value)

    def on_run_end(self, config: Any, **ended: Any) -> None:
        """Exit before Hydra prints a second line about a failure that the job has explained."""
        if isinstance(ended["job_return"]._return_value, JobFailed):
            sys.exit(2)


def is_training(config: DictConfig) -> bool:
    """Tell whether a composed job is one of train.py, whose folder is its own."""
    return "resume_sweep" in config


def log_error(error: Any) -> None:
    """Write an error that was printed into the log files of the job."""
    text = error.details or f"error: {error}" if isinstance(error, JobFailed) else None
    if text is None:
        text = "".join(traceback.format_exception(error))
    record = logging.makeLogRecord(
        {"name": "dreambooth", "levelno": logging.ERROR, "levelname": "ERROR", "msg": text}
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


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
        return [p for p in (path, *path.parents) if not p.exists()]
    except (OmegaConfBaseException, OSError):  # Hydra makes none and reports the error
        return []


def is_empty(folder: Path) -> bool:
    """Tell whether `folder` holds only Hydra's notes and ours, and an empty log."""
    for entry in folder.iterdir():
        is_log = entry.suffix == ".log" and entry.stat().st_size == 0
        if entry.name not in NOTES and not is_log:
            return False
    return True


def remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Remove `folder` if it is empty but for notes, then `made` while empty.

    With an empty `made`, the folder existed before the command, and it stays.
    """
    if made and folder.is_dir() and is_empty(folder):
        _remove(folder, made)


def remove_refused(folder: Path, made: Sequence[Path]) -> None:
    """Remove the folder of a sweep, as `remove_empty` does, if all of its jobs were refused."""
    if not made or not folder.is_dir():
        return
    failed = {path.parent: failure(path.parent) for path in find_files(folder, FAILED)}
    refused = [job for job, record in failed.items() if record and not record["started"]]
    for path in folder.rglob("*"):
        inside = any(path.is_relative_to(job) for job in refused)
        if path.is_file() and not inside and path.name not in NOTES:
            return
    _remove(folder, made)


def _remove(folder: Path, made: Sequence[Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path in made:
        try:
            path.rmdir()
        except OSError:  # it holds something, or is gone
            if path.exists():
                return
