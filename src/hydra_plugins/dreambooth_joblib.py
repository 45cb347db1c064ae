"""Runs side by side on this machine, through joblib (see conf/hydra/launcher/joblib.yaml).

It lies in `hydra_plugins`, the namespace package in which Hydra looks for launchers.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from dreambooth.cli.sweeps.jobs import JobFailed
from dreambooth.packages import need


class OurPreset(SearchPathPlugin):
    """Have `hydra/launcher=joblib` mean our file, and not the schema that the package gives it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Remove the schema: Hydra asks when it has loaded all plugins, before it composes."""
        launchers: dict[str, Any] = ConfigStore.instance().repo["hydra"]["launcher"]
        launchers.pop("joblib.yaml", None)


class Joblib(Launcher):
    """Launch runs in processes of their own, as hydra-joblib-launcher does.

    At Ctrl-C the running ones end after their step, with a checkpoint, and no other begins.

    Args:
        n_jobs: runs at a time; -1 takes one for each core.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the runs need.

        Raises:
            UserError: joblib's launcher is not installed.
        """
        option, module = "hydra/launcher=joblib", "hydra_plugins.hydra_joblib_launcher"
        need("hydra-joblib-launcher", option, "leave it out", module)
        self.task_function = task_function
        self.context = {"hydra_context": hydra_context, "config": config}

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Launch all jobs and wait for them.

        Raises:
            KeyboardInterrupt: when the jobs that were running have ended.
        """
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
        from joblib import effective_n_jobs

        # no process without a job, which a Ctrl-C would end; none is given a job before it is free
        processes = min(effective_n_jobs(self.n_jobs), len(job_overrides))
        launcher = JoblibLauncher(n_jobs=processes, pre_dispatch="n_jobs", batch_size=1)
        if processes == 1:  # joblib then runs the jobs in this process
            launcher.setup(**self.context, task_function=self.task_function)
            return launcher.launch(job_overrides, initial_job_idx)
        launcher.setup(**self.context, task_function=partial(_run, self.task_function))
        jobs, before = _UntilStopped(job_overrides), signal.getsignal(signal.SIGINT)

        def stop(*_: Any) -> None:
            jobs.are_stopped = True
            signal.signal(signal.SIGINT, before)
            print(
                "\nStopping after the running steps; Ctrl-C again stops at once.", file=sys.stderr
            )

        signal.signal(signal.SIGINT, stop)
        try:
            returns = launcher.launch(jobs, initial_job_idx)
        except Exception:
            if not jobs.are_stopped:  # else a process has ended with the job that it ran
                raise
            returns = []
        finally:
            signal.signal(signal.SIGINT, before)
        if jobs.are_stopped:
            raise KeyboardInterrupt
        return returns


class _UntilStopped(list):
    """Jobs that are handed out one by one, until they are stopped."""

    are_stopped = False

    def __iter__(self) -> Iterator[Any]:
        for job in super().__iter__():
            if self.are_stopped:
                return
            yield job


def _run(task_function: TaskFunction, cfg: DictConfig) -> Any:
    """Run a job in its process, where a signal ends the job and nothing else.

    Raises:
        JobFailed: a signal ended the job.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return task_function(cfg)
    except (KeyboardInterrupt, SystemExit):
        raise JobFailed("stopped by a signal") from None
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
