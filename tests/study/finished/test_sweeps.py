"""What a sweep's folder says of its runs."""

from __future__ import annotations

import json

import pytest

from dreambooth.errors import UserError
from dreambooth.files import read_csv
from dreambooth.study.finished.sweeps import (
    SweepPlan,
    Unfinished,
    find_unfinished,
    record_failure,
    sweep_name,
)
from dreambooth.study.tables import ReportSpec, report
from run_records import write_run


def plan(*folders: str) -> SweepPlan:
    jobs = [{"overrides": [f"seed={i}"], "folder": name} for i, name in enumerate(folders)]
    return SweepPlan(["seed=0,1"], ["--config-dir=mine"], jobs)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan("a", "b").write(tmp_path)
    assert SweepPlan.read(tmp_path) == plan("a", "b")
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="is not the folder of a sweep"):
        SweepPlan.read(tmp_path)


@pytest.fixture
def sweep(tmp_path):
    """A folder with a sweep of one run of every kind."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    plan("done", "closing", "failed", "stopped", "missing").write(folder)
    write_run(folder, "done", 0.5)
    closing = write_run(folder, "closing", 0.25)
    record = json.loads((closing / "run.json").read_text())
    (closing / "run.json").write_text(json.dumps({**record, "finished": False}))
    (folder / "stopped").mkdir()
    (folder / "failed").mkdir()
    record_failure(folder / "failed", "lr=-1 is not usable.", started=False)
    return folder


def test_every_run_that_did_not_finish_is_listed(sweep):
    assert find_unfinished(sweep.parent) == [
        Unfinished("sweep/closing", "unfinished", "stopped after its training, or still running"),
        Unfinished("sweep/failed", "failed", "lr=-1 is not usable."),
        Unfinished("sweep/missing", "missing", "not started"),
        Unfinished("sweep/stopped", "unfinished", "stopped, or still running"),
    ]


def test_tables_show_them_with_their_reasons(sweep, capsys):
    """A run that was stopped in its closing work has a record, and is not finished."""
    assert report(ReportSpec(sweep, None, False, "cpu", None, "cache", False)) == 0
    assert "lr=-1 is not usable." in capsys.readouterr().out
    rows = {row["run"]: row for row in read_csv(sweep / "runs.csv")}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished",
        "closing": "unfinished",
        "failed": "failed",
        "stopped": "unfinished",
        "missing": "missing",
    }
    assert rows["failed"]["reason"] == "lr=-1 is not usable."
    assert rows["closing"]["seconds"] == "" and rows["done"]["seconds"] == "1.5"


def test_a_report_of_failures_alone_names_them(tmp_path):
    plan("a").write(tmp_path)
    with pytest.raises(UserError, match=r"no finished run .*\n  a: missing \(not started\)"):
        report(ReportSpec(tmp_path, None, True, "cpu", None, "cache", False))


def test_another_command_in_a_sweeps_folder_forgets_none_of_its_runs(tmp_path):
    first = SweepPlan(["seed=0,1"], [], [{"overrides": [], "folder": n} for n in ("0", "1")])
    second = SweepPlan(["seed=2"], [], [{"overrides": [], "folder": "2"}])
    second.after(first).write(tmp_path)
    assert SweepPlan.read(tmp_path).overrides == ["seed=2"]
    assert [run.name for run in find_unfinished(tmp_path)] == ["0", "1", "2"]
    again = first.after(SweepPlan.read(tmp_path))  # the first command once more
    assert [plan["overrides"] for plan in again.earlier] == [["seed=2"]]


@pytest.mark.parametrize("folder", ["../other", "/etc"])
def test_a_plan_names_no_folder_outside_its_own(tmp_path, folder):
    SweepPlan([], [], [{"overrides": [], "folder": folder}]).write(tmp_path)
    with pytest.raises(UserError, match="sweep.json is damaged .* lies outside"):
        SweepPlan.read(tmp_path)


@pytest.mark.parametrize(
    ("folder", "overrides", "group"),
    [
        ("studies/lr", [], "lr"),
        ("2026-11-30/20-40-21_paper_table3", [], "paper_table3 2026-11-30 20-40-21"),
        (
            "2026-11-30/20-40-21",
            ["subject=dog,cat", "ppl=true,false", "seed=1", "prior.weight=range(1,3)"],
            "subject-ppl-weight 2026-11-30 20-40-21",
        ),
    ],
)
def test_a_study_is_named_by_its_preset_or_what_it_varies(tmp_path, folder, overrides, group):
    path = tmp_path / folder
    SweepPlan(overrides, [], []).write(path)
    assert sweep_name(path) == group
    assert sweep_name(tmp_path / "2026-11-30/08-00-00") == "sweep 2026-11-30 08-00-00"
