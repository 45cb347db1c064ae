"""Many runs side by side: the tables as they are printed and written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from dreambooth.cli.configs import CONF
from dreambooth.cli.specs import report_spec
from dreambooth.errors import UserError
from dreambooth.study.scored_runs import read_runs
from dreambooth.study.tables import ReportSpec, _table, print_tables, report, runs_table
from run_records import DINO, metrics_file, read_metrics, write_metrics, write_run


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def spec(runs: Path, evaluation: str | None = None) -> ReportSpec:
    return ReportSpec(runs, evaluation, True, "cpu", None, str(runs / "cache"))


def test_variants_of_one_metric_have_columns_of_their_own(tmp_path, capsys):
    write_run(tmp_path, "a", 0.25, "dog")
    write_run(tmp_path, "b", 0.75, "cat", variant=DINO.replace("hub", "hf"))
    print_tables(tmp_path)
    printed = capsys.readouterr().out
    assert "DINO 1" in printed and "DINO 2" in printed and DINO in printed
    by_run = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert float(by_run["a"][DINO]) == 0.25 and by_run["b"][DINO] == ""


def test_a_row_is_what_differs_the_scores_and_the_costs(tmp_path):
    for name, ppl in (("a", True), ("b", False)):
        write_run(tmp_path, name, 0.2, ppl=ppl)
    (tmp_path / "a" / "metrics.csv").write_text("step,loss/instance,loss/prior\n1,0.5,0.25\n2,,\n")
    metrics_file(tmp_path / "b").unlink()
    first, second = runs_table(read_runs(tmp_path))
    assert first["run"] == "a" and first["ppl"] is True and first["seconds"] == 1.5
    assert "output_dir" not in first and "instance_prompt" not in first
    assert first["evaluation"] == "quick" and first[DINO] == 0.2 and first["memory_gib"] == 0.5
    assert (first["loss/instance"], first["loss/prior"]) == (0.5, 0.25)
    assert second["evaluation"] is None and DINO not in second and "loss/prior" not in second


def test_means_and_intervals_are_printed_and_written(tmp_path, capsys):
    for subject, score in (("dog", 0.2), ("cat", 0.6)):
        write_run(tmp_path, subject, score, subject)
    print_tables(tmp_path)
    assert "0.400 (0.200 to 0.600)" in capsys.readouterr().out
    (row,) = table(tmp_path / "settings.csv")
    assert float(row[DINO]) == pytest.approx(0.4) and row["subjects"] == "2"


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        report(spec(tmp_path))


def test_a_report_is_of_the_runs_own_evaluation_or_of_the_one_asked_for(tmp_path, capsys):
    for name, score in (("a", 0.25), ("b", 0.5)):
        run = write_run(tmp_path, name, score, seed=int(score * 4))
    scores = {DINO: {"metric": "DINO", "mean": 0.75}}
    write_metrics(run, {**read_metrics(run), "evaluation": "cornell", "scores": scores})
    assert report(spec(tmp_path)) == 0
    shown = [(row["evaluation"], float(row[DINO])) for row in table(tmp_path / "runs.csv")]
    assert sorted(shown) == [("quick", 0.25), ("quick", 0.5)]
    assert report(spec(tmp_path, "cornell")) == 0
    shown = [(row["evaluation"], row[DINO]) for row in table(tmp_path / "runs.csv")]
    assert sorted(shown) == [("", ""), ("cornell", "0.75")]
    with pytest.raises(UserError, match="evaluation=paper has scored no run .* cornell, quick"):
        report(spec(tmp_path, "paper"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], None),
        (["evaluation=cornell"], "cornell"),
        (["evaluation=quick", "evaluation.name=mine"], "mine"),
    ],
)
def test_an_evaluation_is_named_as_everywhere(tmp_path, overrides, expected):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("report", [f"runs='{tmp_path}'", "cache_dir=c", *overrides])
    assert report_spec(cfg) == ReportSpec(tmp_path, expected, True, "auto", None, "c")


def test_the_runs_of_a_report_are_never_markup():
    console = Console(width=200)
    with console.capture() as printed:
        console.print(_table("2 runs: b [/c]", [{"metrics": "[dino,clip_t]"}], {"metrics": "m"}))
    assert "b [/c]" in printed.get() and "[dino,clip_t]" in printed.get()
