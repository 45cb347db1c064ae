"""A sweep with cases beside its combinations, in which the other runs go on when one fails.

It lies in `hydra_plugins`, the namespace package in which Hydra looks for sweepers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from dreambooth.cli.refusals.resources import refuse_full_disk
from dreambooth.cli.sweeps.jobs import (
    SweepFailed,
    is_training,
    missing,
    remove_empty,
    remove_refused,
)
from dreambooth.cli.sweeps.ordering import ordered
from dreambooth.cli.sweeps.planning import PlannedJob, planned_jobs, refuse_shared_folders, to_run
from dreambooth.cli.sweeps.resume_sweep import command_of, saying_how_to_go_on, write_plan
from dreambooth.errors import UserError


class EveryRun(BasicSweeper):
    """Hydra's own sweep over every combination of values and cases, with any launcher.

    An override of the command line replaces the values of the same key in `params`, and is taken
    out of every case: `experiment=paper_table3 subject=dog` is the study of one subject.

    Args:
        params: key => values to sweep, as text: `{lr: "1e-4,2e-4"}`. The first key varies slowest.
        cases: lists of overrides that belong together, each list a run: `[[method=full],
            [method=lora, lr=1e-3]]`. Within a combination of values the cases follow each other.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: Mapping[str, str] | None = None,
        cases: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))
        self.cases = [list(case) for case in cases or ()]
        self.given: set[str] = set()  # keys of the command line
        self.in_parallel = False

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher that the configuration names."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.in_parallel = not isinstance(self.launcher, BasicLauncher)
        self.launcher = self.completed = Completed(self.launcher)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every combination; with `dry_run=true` print what would run.

        Raises:
            SweepFailed: some runs failed; the others are finished and the callbacks have ended.
        """
        assert self.config is not None and self.hydra_context is not None
        if self.config.get("dry_run"):
            from dreambooth.cli.sweeps.dry_run import print_sweep

            jobs = self._planned(self.jobs(arguments))
            if is_training(self.config):
                _refuse_without_photos(to_run(jobs))
            print_sweep(self.config, jobs)
            return []
        folder, made = Path(self.config.hydra.sweep.dir), missing(self.config, "sweep")
        self.given = {override.get_key_element() for override in self._parsed(arguments)}
        try:
            with saying_how_to_go_on(folder):
                returns = super().sweep(arguments)
        except (ConfigCompositionException, UserError):  # refused before any run
            remove_empty(folder, made)
            raise
        if self.completed.has_failed:
            name = self.config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
            remove_refused(folder, made)
            raise SweepFailed(self.completed.jobs, command_of(folder))
        return returns

    def jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """List the overrides of every job that a command line asks for."""
        self.given = {override.get_key_element() for override in self._parsed(arguments)}
        overrides = self._parsed([*self._parse_config(), *arguments])
        return self.split_arguments(overrides, None)[0]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose all jobs before the first batch, and write the plan of the sweep.

        Raises:
            ConfigCompositionException: overrides that do not compose.
            UserError: runs that would share a folder, all lack photos, or fill the disk, or a plan
                of the sweep that has changed.
        """
        if self.batch_index > 1:  # the first batch has composed all
            return
        assert self.config is not None and self.overrides is not None
        jobs = self._planned([job for batch in self.overrides for job in batch])
        if is_training(self.config):
            configs = to_run(jobs)
            _refuse_without_photos(configs)
            refuse_full_disk(configs)
            write_plan(self.config, jobs)
            print(f"{len(jobs)} run{'s' * (len(jobs) != 1)}, in {self.config.hydra.sweep.dir}")

    def _planned(self, jobs: Sequence[Sequence[str]]) -> list[PlannedJob]:
        assert self.config is not None and self.hydra_context is not None
        planned = planned_jobs(self.hydra_context.config_loader, self.config, jobs)
        if is_training(self.config):
            refuse_shared_folders(planned)
        return planned

    def split_arguments(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """List the overrides of every job, in batches that are launched together."""
        combinations = BasicSweeper.split_arguments(overrides, None)[0]
        cases = self._cases()
        jobs = [job + case for job, case in itertools.product(combinations, cases)]
        jobs = ordered(jobs, self.in_parallel)
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))

    def _cases(self) -> list[list[str]]:
        """List the cases without the keys that the command line gives; equal ones once."""
        cases: list[list[str]] = []
        for case in self.cases:
            kept = [
                f"{override.get_key_element()}={override.get_value_element_as_str()}"
                for override in self._parsed(case)
                if override.get_key_element() not in self.given
            ]
            if kept not in cases:
                cases.append(kept)
        return cases or [[]]

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides(list(overrides))


def _refuse_without_photos(configs: Sequence[Mapping[str, Any]]) -> None:
    from dreambooth.cli.refusals.photos import refuse_without_photos  # imports Pillow

    refuse_without_photos(configs)


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
