"""Whatever is damaged in a finished run, a report goes on, and a reader has one sentence.

What is read in spite of the damage is what the run wrote.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import damages
import pytest

from dreambooth.errors import UserError
from dreambooth.study.finished.runs import Run
from dreambooth.study.finished.scored_runs import ScoredRun, read_readable
from dreambooth.training.resuming.checkpoint_records import verify

pytestmark = pytest.mark.slow


def test_every_damage_to_a_runs_records_is_worded(scored, tmp_path):
    (step,) = (path.relative_to(scored) for path in scored.glob("checkpoints/*/*.ckpt"))
    records = (
        "run.json",
        "metrics.csv",
        "evaluation/quick/metrics.json",
        f"{step}.json",
        str(step),
    )
    refused, whole = 0, [read(scored) for read in READ]
    for name in records:
        for kind in damages.DAMAGES:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            run = Path(shutil.copytree(scored, tmp_path / "run"))
            damages.damage(run / name, kind, run / "evaluation/quick/scores.csv")
            runs, unreadable = read_readable(tmp_path)
            assert len(runs) + len(unreadable) == (name != "run.json" or kind != "deleted")
            for read, written in zip(READ, whole, strict=True):
                try:
                    assert read(run) == written or kind == "deleted", f"{name} {kind}"
                except UserError as error:
                    refused += 1
                    assert str(run) in str(error)
    assert refused > 40


def _words(run: Path) -> object:
    return Run.read(run).words


def _base(run: Path) -> object:
    return Run.read(run).base


def _scores(run: Path) -> object:
    return ScoredRun.read(run, "run", None).scores


def _losses(run: Path) -> object:
    return Run.read(run).last_losses()


def _checkpoints(run: Path) -> object:
    return [verify(path)["sha256"] for path in run.glob("checkpoints/*/*.ckpt")]


READ = (_words, _base, _scores, _losses, _checkpoints)
