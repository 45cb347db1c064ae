"""Ctrl-C in a sweep of parallel jobs; cli/sweeps/test_jobs.py launches real ones."""

from __future__ import annotations

import os
import signal
from typing import Any

import joblib
import pytest

from dreambooth import packages
from dreambooth.cli.sweeps.jobs import JobFailed
from dreambooth.errors import UserError
from hydra_plugins.dreambooth_joblib import Joblib, _run


@pytest.fixture
def launcher() -> Joblib:
    made = Joblib(n_jobs=2)
    made.setup(hydra_context=None, task_function=None, config=None)  # type: ignore[arg-type]
    return made


def test_after_ctrl_c_no_other_job_begins(launcher, monkeypatch):
    # here, as Hydra imports its plugins anew whenever it looks for them
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

    begun: list[Any] = []

    def launch(self, job_overrides, initial_job_idx):
        assert self.joblib["n_jobs"] == 2
        for job in job_overrides:
            begun.append(job)
            if len(begun) == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(JoblibLauncher, "launch", launch)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        launcher.launch([["a"], ["b"], ["c"]], 0)
    assert begun == [["a"], ["b"]] and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit(143)])
def test_a_signal_ends_a_job_and_not_its_process(stop):
    def job(cfg):
        raise stop

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(JobFailed, match="stopped by a signal"):
            _run(job, {})  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)  # between two jobs
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_jobs_share_the_cores(monkeypatch):
    """As joblib's own launcher calls it: each process has its share of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = joblib.delayed(lambda: os.environ.get("OMP_NUM_THREADS"))
    own = joblib.Parallel(n_jobs=2, backend="loky")(threads() for _ in range(2))
    assert own == [str(max(joblib.cpu_count() // 2, 1))] * 2


def test_without_its_package_it_is_refused(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="joblib needs the package hydra-joblib-launcher"):
        Joblib(2).setup(hydra_context=None, task_function=None, config=None)  # type: ignore[arg-type]
