"""Many runs side by side: the tables as they are printed and written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from rich.text import Text

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.specs import report_spec
from dreambooth.errors import UserError
from dreambooth.records import write_record
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.finished.sweeps import Unfinished
from dreambooth.study.fitting import Block
from dreambooth.study.tables import ReportSpec, print_tables, report, runs_table
from run_records import DINO, metrics_file, read_metrics, write_metrics, write_run
from spine import left_behind


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def spec(runs: Path, evaluation: str | None = None) -> ReportSpec:
    return ReportSpec(runs, evaluation, True, "cpu", None, str(runs / "cache"), False)


def test_variants_of_one_metric_have_columns_of_their_own(tmp_path, capsys):
    write_run(tmp_path, "a", 0.25, "dog")
    write_run(tmp_path, "b", 0.75, "cat", variant=DINO.replace("hub", "hf"))
    print_tables(tmp_path)
    printed = capsys.readouterr().out
    assert "DINO 1 ↑" in printed and "DINO 2 ↑" in printed and DINO in printed
    by_run = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert float(by_run["a"][DINO]) == 0.25 and by_run["b"][DINO] == ""


def test_a_row_is_what_differs_the_scores_and_the_costs(tmp_path):
    for name, ppl in (("a", True), ("b", False)):
        write_run(tmp_path, name, 0.2, ppl=ppl)
    (tmp_path / "a" / "metrics.csv").write_text("step,loss/instance,loss/prior\n1,0.5,0.25\n2,,\n")
    metrics_file(tmp_path / "b").unlink()
    metrics = read_metrics(tmp_path / "a")
    metrics["scores"][DINO]["interval_95"] = [0.1, 0.25]
    write_metrics(tmp_path / "a", metrics)
    first, second, third = runs_table(
        read_runs(tmp_path), [Unfinished("c", "failed", "The disk is full.")]
    )
    assert third == {"run": "c", "state": "failed", "reason": "The disk is full."}
    assert first["state"] == "finished" and first[f"{DINO}.high_95"] == 0.25
    assert first["run"] == "a" and first["ppl"] is True and first["seconds"] == 1.5
    assert "output_dir" not in first and "instance_prompt" not in first
    assert first["evaluation"] == "quick" and first[DINO] == 0.2 and first["memory_gib"] == 0.5
    assert (first["loss/instance"], first["loss/prior"]) == (0.5, 0.25)
    assert second["evaluation"] is None and DINO not in second and "loss/prior" not in second


def test_means_and_intervals_are_printed_and_written(tmp_path, capsys):
    for subject, score in (("dog", 0.2), ("cat", 0.6)):
        write_run(tmp_path, subject, score, subject)
    left = left_behind(tmp_path / "runs.csv")
    print_tables(tmp_path)
    printed = capsys.readouterr().out
    assert not left.exists()
    assert "0.400" in printed and "0.200 to 0.600" in printed
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
    "damage",
    [
        lambda record: "{",
        lambda record: json.dumps([record]),
        lambda record: json.dumps({**record, "config": 5}),
        lambda record: json.dumps({**record, "costs": {"seconds": "long"}}),
    ],
)
def test_a_run_that_cannot_be_read_is_shown_and_the_others_too(tmp_path, capsys, damage):
    for name, score in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
        write_run(tmp_path, name, score)
    path = tmp_path / "b" / "run.json"
    path.write_text(damage(json.loads(path.read_text())))
    assert report(spec(tmp_path)) == 0
    rows = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert [rows[name]["state"] for name in "abc"] == ["finished", "unreadable", "finished"]
    assert "run.json" in rows["b"]["reason"] and "unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.csv", "curve.csv"])
def test_a_run_whose_table_has_changed_is_shown_and_the_others_too(tmp_path, name):
    for run, score in (("a", 0.5), ("b", 0.6)):
        write_run(tmp_path, run, score)
    record = json.loads((tmp_path / "b/run.json").read_text())
    (tmp_path / "b" / name).write_text("step,loss/instance\n1,0.25\n")
    write_record(tmp_path / "b/run.json", record, [name])
    (tmp_path / "b" / name).write_text("step,loss/instance\n1,0.35\n")
    assert report(spec(tmp_path)) == 0
    rows = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert [rows[run]["state"] for run in "ab"] == ["finished", "unreadable"]
    assert name in rows["b"]["reason"]


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
    assert report_spec(cfg) == ReportSpec(tmp_path, expected, True, "auto", None, "c", False)


WIDE = {  # of two metrics for each variant id of three
    "dino.pocket.sq64_bicubic.allpairs.macro": "DINO",
    "clip_t.pocket.sq64_bicubic.class_only.matched.cos": "CLIP-T class_only",
    "pres.class_prompt.dino.pocket.sq64_bicubic.allpairs.macro": "PRES",
    "div.lpips.pocket.v1.64.within_prompt.2": "DIV",
    "div_class.lpips.pocket.v1.64.within_prompt.32": "DIV of class",
}


def study(root: Path) -> None:
    """A study of two subjects with all metrics, of which one published row was not run."""
    rows = [
        {"name": "off [/b]", "setting": {"ppl": False}, "scores": {"DINO": 0.7, "PRES": 0.6}},
        {"name": "on", "setting": {"ppl": True}, "scores": {"DINO": 0.6, "PRES": 0.5}},
        {"name": "twice", "setting": {"ppl": 2}, "scores": {"DINO": 0.5}},
    ]
    published = {"title": "T", "question": "Q?", "source": "S", "rows": rows}
    for subject in ("dog", "backpack_dog"):
        for ppl in (False, True):
            run = write_run(root, f"{subject}-{ppl}", 0, subject, ppl=ppl, published=published)
            score = 0.5 + 0.1 * ppl + 0.05 * (subject == "dog")
            entry = {"mean": score, "interval_95": [score - 0.02, score + 0.03]}
            scores = {variant: {"metric": name, **entry} for variant, name in WIDE.items()}
            write_metrics(run, {**read_metrics(run), "scores": scores})


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_fit_the_console_and_break_no_word(tmp_path, capsys, monkeypatch, width):
    study(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    lost = Unfinished("subject=cat,ppl=true", "failed", "The photo a.jpg cannot be read.")
    print_tables(tmp_path, unfinished=[lost, Unfinished("later", "missing")])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(len(line) for line in lines) <= width
    for header in ("DINO ↑", "CLIP-T ↑", "PRES ↓", "DIV ↑", "DIV class ↑", "s", "GiB"):
        assert any(re.search(rf"(^| ){re.escape(header)}( |$)", line) for line in lines), header
    runs = [line for line in lines if line.startswith("backpack_dog  True")]
    assert all("0.600* ±.025" in line or "GiB" not in line for line in runs) and runs
    assert "off [/b]" in printed and "0.050†" not in printed
    assert "+0.100†" in printed and "published" in printed and "not run" in printed
    for text in ("subject=cat,ppl=true", "failed", "a.jpg cannot be read.", "missing"):
        assert text in printed
    assert "answer.md, answer.csv," in " ".join(printed.split())
    by_state = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert by_state["later"]["state"] == "missing" and by_state["later"]["ppl"] == ""
    assert by_state[lost.name]["reason"] == lost.reason


def test_a_sweep_of_which_nothing_was_finished_is_shown(tmp_path, capsys):
    print_tables(tmp_path, [], [Unfinished("a", "failed", "no photos"), Unfinished("b", "missing")])
    assert "no photos" in capsys.readouterr().out
    assert [row["state"] for row in table(tmp_path / "runs.csv")] == ["failed", "missing"]


def test_a_key_that_is_longer_than_its_values_breaks_between_words():
    values = [Text("True"), Text("False")]
    assert Block("train_text_encoder", values, is_number=False).heading == "train_\ntext_\nencoder"
    assert Block("max_steps", [Text("100")], is_number=False).heading == "max_\nsteps"
    assert Block("max_steps", [Text("a long value")], is_number=False).heading == "max_steps"
    assert Block("DIV class ↑", [Text("0.5 ")]).heading == "DIV class ↑ "


def test_settings_with_a_run_each_are_printed_once(tmp_path, capsys):
    for lr in (1e-3, 1e-4):
        write_run(tmp_path, str(lr), 100 * lr, lr=lr)
    print_tables(tmp_path)
    printed = capsys.readouterr().out
    assert "means over subjects" not in printed and "generate.py" not in printed
    folder = next(tmp_path.glob("*/run.json")).parent
    (folder / "model").mkdir()
    print_tables(tmp_path)
    assert f"python generate.py run={folder}\n" in capsys.readouterr().out
