"""metrics.csv and curve.csv of a run that was killed are those of one that was not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dreambooth.files import read_csv
from dreambooth.training.logs.run_log import RunLog, read_rows
from dreambooth.training.resuming.checkpoints import Checkpoints
from spine import Spine

TIMES = ("images_per_second", "memory_gib")


def kill_after_a_checkpoint(patch: pytest.MonkeyPatch, step: int) -> None:
    save = Checkpoints.save

    def killed(self, trainer):
        save(self, trainer)
        if self.saved == step:
            os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(Checkpoints, "save", killed)


@pytest.fixture(scope="module")
def command(encoders_dir: Path) -> tuple[str, ...]:
    return (
        "max_steps=4",
        "ppl=false",
        "checkpoint.every_n_steps=2",
        "trainer.log_every_n_steps=1",
        "evaluation.every_n_steps=2",
        "evaluation.encoders=pocket",
        f"evaluation.encoders_dir='{encoders_dir}'",
        "evaluation.curve.class_images=1",
    )


def without_times(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run)]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_logs_of_a_killed_run_are_those_of_one_in_one_go(spine: Spine, command, tmp_path):
    whole, parts = spine.run(tmp_path / "whole", *command), tmp_path / "parts"
    child = os.fork()
    if not child:
        with pytest.MonkeyPatch.context() as patch:
            kill_after_a_checkpoint(patch, 2)
            spine.run(parts, *command)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    spine.run(parts, *command)
    assert (parts / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()
    assert [row["step"] for row in read_csv(whole / "curve.csv")] == ["0", "2", "4"]
    expected = without_times(whole)
    assert [row["step"] for row in expected] == [str(step) for step in range(5)]
    assert all(row["loss/total"] for row in expected[:4]) and not expected[4]["loss/total"]
    assert [bool(row["curve/harmonic_mean"]) for row in expected] == [True, False] * 2 + [True]
    assert without_times(parts) == expected
    names = (whole / "metrics.csv").read_text().splitlines()[0]
    assert (parts / "metrics.csv").read_text().splitlines()[0] == names


def test_a_step_has_one_row_and_what_lies_beyond_the_checkpoint_is_dropped(tmp_path):
    log = RunLog(tmp_path)
    for step in (0, 1, 2):
        log.add({"loss": step / 3}, step)
    log.add({"curve/dino": 0.5}, 1)
    log.write()
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,curve/dino,loss\n0,,0.0\n1,0.5,0.3333333333333333\n2,,0.6666666666666666\n"
    )
    again = RunLog.resumed(tmp_path, 2)
    assert again.rows == {0: {"loss": "0.0"}, 1: {"loss": "0.3333333333333333"}}
    assert not RunLog.resumed(tmp_path, 0).rows


def test_a_log_that_cannot_be_read_costs_no_run(tmp_path, caplog):
    (tmp_path / "metrics.csv").write_bytes(b"step\n\xff\xfe")
    log = RunLog.resumed(tmp_path, 3)
    assert "metrics.csv" in caplog.text and not log.rows
    log.add({"loss": 1.0}, 3)
    log.write()
    assert [row["step"] for row in read_rows(tmp_path)] == ["3"]


@pytest.mark.parametrize("damage", ["0.25", "", None])
def test_a_log_that_has_changed_since_the_checkpoint_is_begun_anew(tmp_path, caplog, damage):
    log = RunLog(tmp_path)
    for step in (0, 1):
        log.add({"loss": 0.5, "curve/dino": 0.1}, step)
    known = log.hash_before(1)
    log.write()
    assert RunLog.resumed(tmp_path, 1, sha256=known).rows == {0: {"loss": "0.5"}}
    assert not caplog.text
    if damage is None:
        log.path.unlink()
    else:
        log.path.write_text(log.path.read_text().replace("0.5", damage, 1))
    assert not RunLog.resumed(tmp_path, 1, sha256=known).rows
    assert "metrics.csv has changed since the checkpoint was written" in caplog.text
    assert "begins at step 1" in caplog.text


def test_other_ranks_write_nothing(tmp_path):
    log = RunLog(tmp_path, writes=False)
    log.add({"loss": 1.0}, 0)
    log.write()
    assert not list(tmp_path.iterdir())
