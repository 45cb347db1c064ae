"""What the benchmark says of a killed sweep, and how it compares tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_kills import Sweep, page

from dreambooth.files import write_csv
from dreambooth.study.finished.sweeps import SweepPlan
from run_records import write_record


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    folder = tmp_path / "sweep"
    write_record(folder / "a", {"lr": 1})
    SweepPlan([], [], [{"overrides": [], "folder": name} for name in ("a", "b", "c")]).write(folder)
    return Sweep(tmp_path)


def test_the_state_of_a_killed_sweep_in_words(sweep):
    second = sweep.folder / "sweep/b"
    assert sweep.state() == "1 of 3 runs finished"
    second.mkdir()
    assert sweep.state() == "1 of 3 runs finished, one before its checkpoints"
    for step in (2, 4):
        path = second / f"checkpoints/phase-0/step-{step:06d}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sweep.state() == "1 of 3 runs finished, one at step-000004"
    record = json.loads((write_record(second, {"lr": 2}) / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**record, "finished": False}))
    assert sweep.state() == "1 of 3 runs finished, one exported"
    assert Sweep(Path("absent")).state() == "nothing was started"


def test_a_run_that_is_finished_again_is_noticed(sweep):
    sweep.look()
    assert sweep.finished.keys() == {"a"} and sweep.repeated == 0
    record = sweep.folder / "sweep/a/run.json"
    copy = record.with_suffix(".copy")
    copy.write_bytes(record.read_bytes())
    copy.replace(record)
    sweep.look()
    assert sweep.repeated == 1


def test_tables_are_equal_but_for_costs(sweep, tmp_path):
    other = Sweep(tmp_path / "other", [(3.0, "nothing was started")])
    for each, seconds, score in ((sweep, 1, 0.5), (other, 2, 0.5)):
        table = each.folder / "sweep/runs.csv"
        write_csv(table, [{"run": "a", "seconds": seconds, "dino.x": score}])
    assert "seconds and memory: 1 of 1" in page(sweep, 9.0, [other], [])
    write_csv(other.folder / "sweep/runs.csv", [{"run": "a", "seconds": 1, "dino.x": 0.4}])
    text = page(sweep, 9.0, [other], ["--kills", "1"])
    assert "seconds and memory: 0 of 1" in text and "sweep_kills.py --kills 1\n" in text
    assert "| 1 | 1 | 3.0 | nothing was started |" in text
