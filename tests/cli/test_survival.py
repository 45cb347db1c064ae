"""A sweep that is killed goes on where it was, and ends with the table of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth.files import read_csv
from dreambooth.sampling.samples import SampleSet
from dreambooth.study.finished.sweeps import find_unfinished
from dreambooth.training.logs.loggers import Loggers
from dreambooth.training.module import DreamBooth
from spine import ROOT, Spine, left_behind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks with torch in memory"),
]
TIMES = ("seconds", "memory_gib")
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def sweep(spine: Spine, encoders_dir: Path, scored: Path):
    """`sweep(folder)` runs a sweep of two in a process of its own => its exit code.

    The processes are forks of this one, which has run once and has imported everything.

    `patch` changes the program before it starts; after `seconds` the process is killed.
    """

    def run(folder: Path, log: Path, patch: Patch | None) -> None:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        with pytest.MonkeyPatch.context() as monkeypatch:
            if patch is not None:
                patch(monkeypatch)
            sys.argv = spine.command(
                "-m",
                "seed=0,1",
                "ppl=false",
                "evaluation=quick",
                "evaluation.metrics=[clip_t]",
                "evaluation.images_per_prompt=1",
                "evaluation.class_images=0",
                f"evaluation.encoders_dir='{encoders_dir}'",
                "checkpoint.every_n_steps=1",
                f"hydra.sweep.dir='{folder}'",
                "hydra.sweep.subdir=${seed}",
            )[1:]
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

    def start(folder: Path, patch: Patch | None = None, seconds: float = 100) -> int | None:
        log = folder.with_suffix(".log")
        process = multiprocessing.get_context("fork").Process(target=run, args=(folder, log, patch))
        process.start()
        process.join(seconds)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        return process.exitcode

    return start


def kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first checkpoint of a run."""
    step = DreamBooth.training_step

    def killed(self, batch, batch_idx):
        if batch_idx == 1:
            kill()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DreamBooth, "training_step", killed)


def before_the_final_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the export and its record there."""
    monkeypatch.setattr(SampleSet, "draw", kill)


def before_the_second_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything there but metrics.csv, and the record that says `finished`."""
    end = Loggers.end

    def killed(self, costs, export=None, failed=False):
        if self.log.path.parent.name == "1":
            kill()
        end(self, costs, export, failed)

    monkeypatch.setattr(Loggers, "end", killed)


POINTS = (in_a_step, before_the_final_samples, before_the_second_run_ends)


def settings_and_scores(folder: Path) -> list[dict[str, str]]:
    rows = read_csv(folder / "runs.csv")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def whole(sweep, tmp_path_factory) -> list[dict[str, str]]:
    """The table of a sweep that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    assert sweep(folder) == 0
    return settings_and_scores(folder)


def test_a_sweep_killed_at_its_worst_moments_ends_with_the_same_table(sweep, whole, tmp_path):
    """Every start goes on where the last one was killed; a finished run stays as it is."""
    folder = tmp_path / "sweep"
    for point in POINTS:
        assert sweep(folder, point) == -signal.SIGKILL, point
    assert [run.name for run in find_unfinished(folder)] == ["1"]
    record, left = (folder / "0/run.json").stat(), left_behind(folder / "0/run.json")
    assert sweep(folder) == 0
    assert (folder / "0/run.json").stat() == record and not left.exists()
    assert settings_and_scores(folder) == whole and len(whole) == 2


def test_a_sweep_killed_at_a_random_moment_ends_with_the_same_table(sweep, whole, tmp_path):
    seconds = random.uniform(0, 4)
    sweep(tmp_path / "sweep", seconds=seconds)
    assert sweep(tmp_path / "sweep") == 0
    assert settings_and_scores(tmp_path / "sweep") == whole, seconds
