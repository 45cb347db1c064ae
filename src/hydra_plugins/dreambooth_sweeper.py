"""A sweep in which the other runs go on when one fails.

It lies in `hydra_plugins`, the namespace package in which Hydra looks for sweepers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from dreambooth.cli.jobs import SweepFailed, missing, remove_empty


class EveryRun(BasicSweeper):
    """Hydra's own sweep over every combination, with any launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher that the configuration names."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.launcher = self.completed = Completed(self.launcher)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every combination.

        Raises:
            SweepFailed: some runs failed; the others are finished and the callbacks have ended.
        """
        assert self.config is not None and self.hydra_context is not None
        folder, made = Path(self.config.hydra.sweep.dir), missing(self.config, "sweep")
        try:
            returns = super().sweep(arguments)
        except ConfigCompositionException:  # refused before any run
            remove_empty(folder, made)
            raise
        if self.completed.has_failed:
            name = self.config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
            remove_empty(folder, made)
            raise SweepFailed(self.completed.jobs)
        return returns


class Completed(Launcher):
    """Any launcher, of which only completed jobs reach the sweep, as a failed one would end it."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.jobs: list[JobReturn] = []

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Do nothing: the launcher was set up when it was made."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Launch the jobs, and return those that completed."""
        jobs = self.launcher.launch(job_overrides, initial_job_idx)
        self.jobs += jobs
        return [job for job in jobs if job.status != JobStatus.FAILED]

    @property
    def has_failed(self) -> bool:
        """Whether any job has failed."""
        return any(job.status == JobStatus.FAILED for job in self.jobs)
