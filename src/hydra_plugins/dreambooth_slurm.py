"""Runs as Slurm jobs, through submitit (see conf/hydra/launcher/slurm.yaml).

It lies in `hydra_plugins`, the namespace package in which Hydra looks for launchers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.sweeps.jobs import JobFailed
from dreambooth.errors import UserError
from dreambooth.packages import need

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

# what submitit calls the same for every kind of cluster
SHARED = ("name", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")


class Slurm(Launcher):
    """Launch each run as a job that is queued again, and goes on, when it is stopped.

    Unlike hydra-submitit-launcher, whose job this is, it reports a job that left no result (killed,
    out of memory) as failed and returns the others.

    Args:
        cluster: `slurm`; or `local`, processes of this machine.
        submitit_folder: where submitit keeps its files and the jobs' logs.
        max_num_timeout: how often a job may reach its time limit.
        options: of submitit's executor; None leaves one out.
    """

    def __init__(
        self, cluster: str, submitit_folder: str, max_num_timeout: int, **options: Any
    ) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, submitit_folder, max_num_timeout
        self.options = {key: value for key, value in options.items() if value is not None}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the function that runs in a job.

        Raises:
            UserError: submitit is not installed.
        """
        option, module = "hydra/launcher=slurm", "hydra_plugins.hydra_submitit_launcher"
        need("hydra-submitit-launcher", option, "leave it out", module)
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

        self.config = config
        self.job = SlurmLauncher()
        self.job.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit all jobs as one array and wait for them.

        Raises:
            UserError: there is no Slurm here, or it does not know an option.
            KeyboardInterrupt: after saying how to cancel the jobs, which go on.
        """
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        calls = [
            (list(overrides), "hydra.sweep.dir", n, f"job_id_for_{n}", Singleton.get_state())
            for n, overrides in zip(numbers, job_overrides, strict=True)
        ]
        jobs = self._executor().map_array(self.job, *zip(*calls, strict=True))
        ids = " ".join(sorted({job.job_id.split("_")[0] for job in jobs}))
        print(f"{len(jobs)} jobs are with {self.cluster}: {ids}", file=sys.stderr, flush=True)
        try:
            return [_result(job, own) for job, own in zip(jobs, job_overrides, strict=True)]
        except KeyboardInterrupt:
            if self.cluster == "slurm":
                print(f"\nThe jobs go on; `scancel {ids}` ends them.", file=sys.stderr)
            raise

    def _executor(self) -> AutoExecutor:
        from submitit import AutoExecutor

        options: Any = OmegaConf.to_container(OmegaConf.create(self.options), resolve=True)
        own = {k if k in SHARED else f"slurm_{k}": value for k, value in options.items()}
        limits = {"slurm_max_num_timeout": self.max_num_timeout}
        limits["local_max_num_timeout"] = self.max_num_timeout
        try:
            executor = AutoExecutor(self.folder, cluster=self.cluster, **limits)
            executor.update_parameters(**own)
        except (RuntimeError, ValueError, NameError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"hydra/launcher=slurm cannot be used here ({reason}): run it where sbatch works, "
                "correct the hydra.launcher.* keys, or set hydra.launcher.cluster=local."
            ) from error
        return executor


def _result(job: Job, overrides: Sequence[str]) -> JobReturn:
    """Wait for a job; one that left no result, or an error outside of the run, is a failed one."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.result()
    except FailedJobError as error:  # with the job's traceback, and where submitit's logs are
        errors = re.findall(r"^[\w.]+: .*", str(error), re.MULTILINE)
        text = f"failed ({errors[-1] if errors else 'for a reason that its log says'})"
    except UncompletedJobError:
        text = f"left no result (state {job.state})"
    failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    failed.return_value = JobFailed(f"its job {job.job_id} {text}; its log: {job.paths.stderr}")
    return failed
