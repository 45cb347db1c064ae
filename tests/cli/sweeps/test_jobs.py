"""Failed jobs under Hydra's launchers: the others go on, the exit code and the end say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from dreambooth.cli.sweeps.jobs import SweepFailed, remove_empty
from dreambooth.errors import UserError
from dreambooth.study.finished.sweeps import SweepPlan, Unfinished, find_unfinished
from spine import environment

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

# what train.py is to Hydra, without training: it needs no torch
COMMAND = """
import signal
from pathlib import Path

from dreambooth.cli.main import entry
from dreambooth.errors import UserError


def run(cfg):
    if cfg.seed == 1:
        raise UserError("seed=1 is not usable.")
    if cfg.seed == 3:
        raise ZeroDivisionError("a bug")
    half = Path(cfg.output_dir, "half")
    if cfg.seed == 6 and not half.exists():
        half.touch()
        return 128 + signal.SIGUSR2  # as training that the queue's signal stopped
    Path(cfg.output_dir, "done").touch()
    return cfg.seed / 4


if __name__ == "__main__":
    entry("train", run)
"""
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "slurm": ("hydra.launcher.cluster=local",),
}


def sweep(folder: Path, *arguments: str, text: str = COMMAND) -> subprocess.CompletedProcess:
    """Run `COMMAND -m` in `folder`; the runs are in sweep/<seed>."""
    (folder / "command.py").write_text(text)
    own = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=${seed}", "~hydra.callbacks.table")
    return subprocess.run(
        [sys.executable, "command.py", "-m", *own, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_reports_the_runs_that_failed(tmp_path, launcher):
    chosen = (f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    more = (6,) if launcher == "slurm" else ()  # stopped by its queue, it is queued again
    seeds = (0, 1, 2, 3, 4, *more)
    done = sweep(tmp_path, f"seed={','.join(map(str, seeds))}", *chosen)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-4:] == [
        f"error: 2 of {len(seeds)} runs of this sweep failed:",
        "  seed=1: seed=1 is not usable.",
        "  seed=3: ZeroDivisionError: a bug",
        """Run these again with python train.py "resume_sweep='sweep'\"""",
    ]
    folder = tmp_path / "sweep"
    finished = {path.parent.name for path in folder.glob("*/done")}
    assert finished == {str(seed) for seed in (0, 2, 4, *more)}
    assert [run for run in find_unfinished(folder) if run.state == "failed"] == [
        Unfinished("1", "failed", "seed=1 is not usable."),
        Unfinished("3", "failed", "ZeroDivisionError: a bug"),
    ]
    assert "error: seed=1 is not usable." in (folder / "1/train.log").read_text()
    log = (folder / "3/train.log").read_text()
    assert "Traceback" in log and "\nZeroDivisionError: a bug\n" in log
    assert [job["folder"] for job in SweepPlan.read(folder).jobs] == [str(seed) for seed in seeds]


def test_a_sweep_goes_on_by_its_folder_alone(tmp_path):
    """With the command line that it had; a run that succeeds this time has not failed."""
    assert sweep(tmp_path, "seed=1,0", "lr=5").returncode == 2
    (tmp_path / "command.py").write_text(COMMAND.replace("cfg.seed == 1", "cfg.lr != 5"))
    command = [sys.executable, "command.py", "resume_sweep=sweep"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {p.parent.name for p in (tmp_path / "sweep").glob("*/done")} == {"0", "1"}
    assert not list((tmp_path / "sweep").glob("*/failed.json"))


@pytest.mark.parametrize(("stop", "code"), [("raise KeyboardInterrupt", 130), ("return 143", 143)])
def test_a_stopped_sweep_says_how_to_go_on(tmp_path, stop, code):
    text = COMMAND.replace('raise UserError("seed=1 is not usable.")', stop)
    done = sweep(tmp_path, "seed=0,1,2", text=text)
    assert done.returncode == code and done.stderr == ""
    said = done.stdout.strip().splitlines()[-1]
    command = """Continue the sweep with python train.py "resume_sweep='sweep'\""""
    assert said == f"Stopped; finished runs are kept. {command}"
    assert find_unfinished(tmp_path / "sweep")[-1] == Unfinished("2", "missing", "not started")


@pytest.mark.thorough
def test_a_search_with_optuna_goes_on_where_it_ended(tmp_path):
    search = ("hydra/sweeper=optuna", "objective=dino", "seed=range(0,5,2)", "max_steps=7")
    first = sweep(tmp_path, *search, "hydra.sweeper.n_trials=1")
    assert first.returncode == 0 and "The best of 1 trials: dino=" in first.stdout, first.stderr
    more = sweep(tmp_path, *search, "hydra.sweeper.n_trials=4")
    assert more.returncode == 0 and "The best of 4 trials: dino=" in more.stdout, more.stderr


def test_a_failed_run_does_not_end_later_batches(tmp_path):
    done = sweep(tmp_path, "seed=1,0,2", "hydra.sweeper.max_batch_size=1")
    assert done.returncode == 2 and "1 of 3 runs" in done.stderr
    assert {p.parent.name for p in (tmp_path / "sweep").glob("*/done")} == {"0", "2"}


def test_a_sweep_without_failures_ends_well(tmp_path):
    done = sweep(tmp_path, "seed=0,2")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("arguments", [("seed=1,3",), ("subject=dog,dgo",)])
def test_a_sweep_that_did_nothing_leaves_no_folder(tmp_path, arguments):
    assert sweep(tmp_path, *arguments).returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["command.py"]


def test_a_single_run_that_failed_has_its_error_in_its_log(tmp_path):
    """If it had written something; else nothing is left of it."""
    wrote = "        Path(cfg.output_dir, 'image').touch()\n        raise UserError"
    (tmp_path / "command.py").write_text(COMMAND.replace("        raise UserError", wrote))
    command = [sys.executable, "command.py", "seed=1", "hydra.run.dir=run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr == "error: seed=1 is not usable.\n"
    assert "error: seed=1 is not usable." in (tmp_path / "run/train.log").read_text()


def test_only_empty_folders_are_removed(tmp_path):
    made = [tmp_path / "a" / "b", tmp_path / "a"]
    for kept in ("image.png", "train.log"):
        (tmp_path / "a/b/.hydra").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a/b" / kept).write_text("something")
        remove_empty(made[0], made)
        assert (tmp_path / "a/b" / kept).exists() and (tmp_path / "a/b/.hydra").exists()
        (tmp_path / "a/b" / kept).unlink()
    (tmp_path / "a/b/train.log").touch()
    (tmp_path / "a/other").touch()
    remove_empty(made[0], made)
    assert not made[0].exists() and (tmp_path / "a/other").exists()
    remove_empty(made[0], made)  # not there: nothing happens


def test_the_only_run_of_a_sweep_is_named_when_it_fails():
    job = JobReturn(overrides=["seed=42"], status=JobStatus.FAILED)
    job.return_value = UserError("no photos")
    assert "  seed=42: no photos" in str(SweepFailed([job]))
