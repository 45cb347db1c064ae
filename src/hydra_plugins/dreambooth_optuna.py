"""A search for the best settings with Optuna (see conf/hydra/sweeper/optuna.yaml).

hydra-optuna-sweeper needs an Optuna before version 3. It lies in `hydra_plugins`, the namespace
package in which Hydra looks for sweepers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from dreambooth.cli.sweeps.jobs import SweepFailed
from dreambooth.cli.sweeps.resume_sweep import saying_how_to_go_on, write_plan
from dreambooth.errors import UserError
from dreambooth.packages import need

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

JOURNAL = "optuna.journal"  # in the sweep's folder: every trial, to go on from


class Optuna(Sweeper):
    """Launch trials until there are `n_trials`; those of an earlier session count.

    A trial that was interrupted goes on first, in its folder. One that failed is not tried again.
    """

    def __init__(self, n_trials: int, n_jobs: int, seed: int) -> None:
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher.

        Raises:
            UserError: Optuna is not installed, there is no objective to search by, or a dry run.
        """
        need("optuna", "hydra/sweeper=optuna", "leave it out for a grid")
        if config.get("dry_run"):
            raise UserError("dry_run plans a grid: take out hydra/sweeper=optuna, or dry_run.")
        if config.get("objective") is None:
            raise UserError("hydra/sweeper=optuna needs objective, such as objective=harmonic.")
        self.config, self.hydra_context = config, hydra_context  # the base class reads them
        self.folder, self.objective = Path(config.hydra.sweep.dir), str(config.objective)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search, and print the best trial.

        Raises:
            UserError: no key has values to search.
            SweepFailed: trials failed; the others are finished.
        """
        assert self.config is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        space = {o.get_key_element(): _space(o) for o in overrides if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        if not space:
            raise UserError("hydra/sweeper=optuna needs values to search: 'lr=interval(1e-5,1e-3)'")
        study = self._study()
        write_plan(self.config, [])
        with saying_how_to_go_on(self.folder):
            jobs = self._search(study, space, fixed)
        self._print_best(study)
        if any(job.status == JobStatus.FAILED for job in jobs):
            name = self.config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
            raise SweepFailed(jobs)

    def _search(
        self, study: Study, space: dict[str, BaseDistribution], fixed: list[str]
    ) -> list[JobReturn]:
        """Launch trials until there are enough; those that were interrupted go first."""
        interrupted = {t.number: t.params for t in study.trials if t.state.name == "RUNNING"}
        jobs: list[JobReturn] = []
        while (left := self.n_trials - _count(study, "COMPLETE", "FAIL")) > 0:
            trials = dict(list(interrupted.items())[: self.n_jobs])
            while len(trials) < min(self.n_jobs, left):
                trial = study.ask(space)
                trials[trial.number] = trial.params
            interrupted = {k: v for k, v in interrupted.items() if k not in trials}
            jobs += self._launch(study, fixed, trials)
        return jobs

    def _launch(
        self, study: Study, fixed: list[str], trials: dict[int, dict[str, Any]]
    ) -> list[JobReturn]:
        """Launch trials together, and record what each returned."""
        assert self.launcher is not None
        chosen = [[*fixed, *(f"{k}={v}" for k, v in own.items())] for own in trials.values()]
        self.validate_batch_is_legal(chosen)
        jobs = self.launcher.launch(chosen, initial_job_idx=min(trials))
        for number, job in zip(trials, jobs, strict=True):
            if job.status == JobStatus.COMPLETED:
                study.tell(number, job.return_value)
            else:
                study.tell(number, state=_state("FAIL"))
        return list(jobs)

    def _study(self) -> Study:
        """Open the study of the sweep's folder."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.folder / JOURNAL))),
            study_name="dreambooth",
            direction="minimize" if self.objective == "pres" else "maximize",
            load_if_exists=True,
        )
        # the sampler's numbers begin anew in each session: another seed, or it would repeat itself
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        return study

    def _print_best(self, study: Study) -> None:
        if done := _count(study, "COMPLETE"):
            best = study.best_trial
            values = " ".join(f"{key}={value}" for key, value in best.params.items())
            print(f"\nThe best of {done} trials: {self.objective}={best.value:.4f} {values}")


def _space(override: Override) -> BaseDistribution:
    """Turn Hydra's sweep syntax into what Optuna samples from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    is_log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        return FloatDistribution(low, high, log=is_log)
    if isinstance(value, RangeSweep) and isinstance(whole := value.range(), range):
        return IntDistribution(whole[0], whole[-1], step=whole.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _count(study: Study, *states: str) -> int:
    return sum(trial.state.name in states for trial in study.get_trials(deepcopy=False))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]
