"""One line a run, with what it came to and when the sweep will end."""

from __future__ import annotations

import os
import re
import time

import pytest

from dreambooth.cli.sweeps.sweep_lines import Place, clock, result
from dreambooth.study.finished.sweeps import SWEEP, SweepPlan


@pytest.fixture
def sweep(tmp_path):
    """A session of 100 seconds in which two runs of six ended; one had finished before."""
    jobs = [{"folder": str(n), "overrides": [f"seed={n}"]} for n in range(6)]
    SweepPlan([], [], jobs).write(tmp_path)
    now = time.time()
    files = {"0/run.json": 200, "1/run.json": 60, "2/failed.json": 0, SWEEP: 100}
    for name, ago in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (now - ago, now - ago))
    return tmp_path


def place(sweep, folders: int = 6) -> Place:
    return Place(sweep, 3, 6, "seed=2", [sweep / str(n) for n in range(folders)], False)


def test_the_end_is_told_from_the_runs_of_this_session(sweep):
    assert place(sweep).ended() == (2, 1)
    assert place(sweep).seconds_left() == pytest.approx(3 * 50, abs=5)
    assert place(sweep, 0).seconds_left() is None
    (sweep / "1/run.json").unlink()
    (sweep / "2/failed.json").unlink()
    assert place(sweep).seconds_left() is None
    assert place(sweep).line("12 s") == "3/6  seed=2  12 s"


def test_a_line_is_the_run_its_scores_its_cost_and_the_end(sweep):
    names = ("DIV", "PRES", "DINO, real images", "DINO", "CLIP-T class_only")
    summary = {name: {"metric": name, "mean": 0.1 * i} for i, name in enumerate(names)}
    costs = {"seconds": 61.6, "phase_0": {"reused": None}, "phase_1": {"reused": {"step": 200}}}
    text = place(sweep).line(result(costs, summary))
    scores = "DINO 0.300  CLIP-T 0.400  PRES 0.100  62 s, 200 steps reused"
    assert text.startswith(f"3/6  seed=2  {scores}  (all by about ")
    assert result({"seconds": 1.0}, {}) == "1 s"
    assert result({"seconds": 1.0}, {"d": summary["DIV"]}) == "DIV 0.000  1 s"


def test_a_time_of_another_day_has_its_day():
    assert re.fullmatch(r"\d\d:\d\d", clock(0))
    assert re.fullmatch(r"[A-Z]\w\w \d\d [A-Z]\w\w \d\d:\d\d", clock(100 * 86400))


def test_a_job_outside_a_sweep_has_no_place():
    assert Place.current() is None
