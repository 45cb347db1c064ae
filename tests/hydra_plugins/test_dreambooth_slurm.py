"""What is asked of Slurm, and jobs that leave nothing; cli/sweeps/test_jobs.py launches jobs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf
from submitit.core.utils import FailedJobError, UncompletedJobError

from dreambooth import packages
from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from hydra_plugins.dreambooth_slurm import Slurm, _result


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """`launcher("partition=gpu")`: the preset's, on a machine that has an `srun`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def make(*overrides: str) -> Slurm:
        own = ("hydra/launcher=slurm", f"hydra.sweep.dir='{tmp_path / 'sweep'}'")
        keys = [f"++hydra.launcher.{override}" for override in overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [*own, *keys, "output_dir=out"], return_hydra_config=True)
        block: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=False)
        block["submitit_folder"], block["name"] = str(tmp_path / "%j"), "train"
        assert block.pop("_target_") == "hydra_plugins.dreambooth_slurm.Slurm"
        return Slurm(**block)

    return make


def test_the_preset_asks_slurm_for_what_it_says(launcher):
    executor = launcher("partition=gpu", "gpus_per_node=2", "timeout_min=60")._executor()
    text = executor._executor._make_submission_file_text("true", "id")
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line}
    assert asked >= {
        "partition=gpu",
        "gpus-per-node=2",
        "time=60",
        "cpus-per-task=4",
        "mem=32GB",
        "job-name=train",
        "signal=USR2@180",
    }
    assert executor._executor.max_num_timeout == 100


def test_an_option_that_slurm_lacks_and_a_machine_without_slurm_are_one_sentence(
    launcher, monkeypatch
):
    with pytest.raises(UserError, match=r"colour.*hydra\.launcher\.\*"):
        launcher("colour=red")._executor()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="srun.*cluster=local"):
        launcher()._executor()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UncompletedJobError("Job 7\nhas no output\n"), "left no result (state OUT_OF_MEMORY)"),
        (
            FailedJobError("With trace:\n  File x\nOSError: no\nat:\n - x.out"),
            "failed (OSError: no)",
        ),
    ],
)
def test_a_job_that_left_nothing_is_a_failed_one(error, expected):
    def ended() -> None:
        raise error

    paths = SimpleNamespace(stderr=Path("e"))
    job: Any = SimpleNamespace(result=ended, job_id="7", paths=paths, state="OUT_OF_MEMORY")
    failed = _result(job, ["seed=1"])
    assert failed.status == JobStatus.FAILED and failed.overrides == ["seed=1"]
    assert str(failed._return_value) == f"its job 7 {expected}; its log: e"


def test_without_its_package_it_is_refused(launcher, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    contents: Any = {"hydra_context": None, "task_function": None, "config": None}
    with pytest.raises(UserError, match="slurm needs the package hydra-submitit-launcher"):
        launcher().setup(**contents)
