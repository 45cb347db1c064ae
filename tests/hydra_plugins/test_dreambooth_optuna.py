"""A search with a launcher that trains nothing; cli/sweeps/test_jobs.py launches real jobs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dreambooth.cli.sweeps.jobs import JobFailed, SweepFailed
from dreambooth.errors import UserError
from hydra_plugins.dreambooth_optuna import Optuna, _space

SEARCH = ["subject=dog", "lr=tag(log,interval(1e-5,1e-3))", "ppl=true,false"]


@pytest.fixture
def search(tmp_path, monkeypatch):
    """`search(job, n_trials)`: a session in one folder, whose jobs return `job(overrides)`."""
    monkeypatch.setattr(Optuna, "validate_batch_is_legal", lambda *_: None)

    def make(job, n_trials: int, objective: str = "dino", n_jobs: int = 1) -> list[dict[str, str]]:
        launched: list[dict[str, str]] = []

        def launch(job_overrides, initial_job_idx):
            returns = []
            for overrides in job_overrides:
                values = dict(override.split("=", 1) for override in overrides)
                launched.append(values)
                value = job(values)
                failed = isinstance(value, Exception)
                status = JobStatus.FAILED if failed else JobStatus.COMPLETED
                returns.append(JobReturn(overrides, status=status, _return_value=value))
            return returns

        config = {"objective": objective, "hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}}
        config["hydra"]["job"] = {"config_name": "train"}  # type: ignore[index]
        config["hydra"]["overrides"] = {"hydra": ["hydra/sweeper=optuna"], "task": SEARCH}  # type: ignore[index]
        sweeper: Any = Optuna(n_trials, n_jobs, seed=0)
        callbacks = SimpleNamespace(on_multirun_end=lambda **_: None)
        sweeper.hydra_context = SimpleNamespace(config_loader=None, callbacks=callbacks)
        sweeper.config, sweeper.launcher = OmegaConf.create(config), SimpleNamespace(launch=launch)
        sweeper.folder, sweeper.objective = tmp_path / "sweep", objective
        try:
            sweeper.sweep(SEARCH)
        finally:
            make.launched = launched
        return launched

    return make


@pytest.mark.parametrize(("objective", "best"), [("dino", max), ("pres", min)])
def test_the_best_is_the_highest_or_for_pres_the_lowest(search, capsys, objective, best):
    values = iter((0.2, 0.6, 0.1, 0.4))
    trials = search(lambda _: next(values), 4, objective, n_jobs=2)
    assert len(trials) == 4 and all(1e-5 <= float(t["lr"]) <= 1e-3 for t in trials)
    assert {t["ppl"] for t in trials} <= {"True", "False"} and trials[0]["subject"] == "dog"
    assert (
        f"best of 4 trials: {objective}={best(0.2, 0.6, 0.1, 0.4):.4f}" in capsys.readouterr().out
    )


def test_an_interrupted_trial_goes_on_and_others_are_new(search, capsys):
    def interrupted(values):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        search(interrupted, 3)
    assert "Continue the sweep with python train.py" in capsys.readouterr().out
    (begun,) = search.launched
    trials = search(lambda _: 0.5, 3)
    assert len(trials) == 3 and trials[0] == begun
    assert len({trial["lr"] for trial in trials}) == 3
    assert search(lambda _: 0.5, 3) == []  # it is complete


def test_failed_trials_count_and_end_nothing(search):
    values = iter((JobFailed("too large"), 0.5, 0.6))
    with pytest.raises(SweepFailed, match="1 of 3 runs of this sweep failed"):
        search(lambda _: next(values), 3)
    assert search(lambda _: 0.1, 4)[1:] == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("lr=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("max_steps=interval(100,400)", FloatDistribution(100, 400)),
        ("max_steps=range(100,401,100)", IntDistribution(100, 400, step=100)),
        ("ppl=true,false", CategoricalDistribution(["True", "False"])),
        ("scheduler=choice(ddim,pndm)", CategoricalDistribution(["ddim", "pndm"])),
    ],
)
def test_hydras_syntax_is_what_is_searched(override, expected):
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert _space(parsed) == expected


def test_a_dry_run_of_a_search_is_refused():
    config = OmegaConf.create({"dry_run": True, "objective": "dino"})
    with pytest.raises(UserError, match="dry_run plans a grid"):
        Optuna(2, 1, 0).setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]


def test_a_search_without_an_objective_is_refused():
    config = OmegaConf.create({"objective": None})
    with pytest.raises(UserError, match="needs objective, such as objective=harmonic"):
        Optuna(2, 1, 0).setup(hydra_context=None, task_function=None, config=config)  # type: ignore[arg-type]
