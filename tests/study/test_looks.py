"""Page and figures: written, and never an error."""

from __future__ import annotations

import pytest

from dreambooth.study import looks, tables
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.figures import style
from dreambooth.study.figures import write as figures
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.page import write
from page_records import write_study
from run_records import write_run


@pytest.mark.slow
def test_both_are_written_and_an_error_is_one_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figures, "SHEETS", 1)
    monkeypatch.setattr(style, "DPI", 40)
    runs = read_runs(write_study(tmp_path))
    names = looks.write_looks(tmp_path, runs, build_answer(runs))
    assert names[0] == "report.html" and (tmp_path / "report.html").exists()
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    expected = {"losses", "scores-while-training", "pareto", "paired", "subjects-without-ppl"}
    assert drawn == expected | {"steps-dog-without-ppl"}
    assert len(drawn) * 2 == len(list((tmp_path / "figures").iterdir()))
    monkeypatch.setattr(write, "study_view", lambda *_: 1 / 0)
    monkeypatch.setattr(figures, "save", lambda *_: 1 / 0)
    assert looks.write_looks(tmp_path, runs, build_answer(runs)) == []
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("division by zero" in line for line in lines)


def test_a_report_writes_them_and_names_what_was_written(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "a", 0.5)
    given = []
    monkeypatch.setattr(
        tables, "write_looks", lambda *found: given.append(found) or ["report.html"]
    )
    tables.print_tables(tmp_path)
    ((folder, runs, answer),) = given
    assert folder == tmp_path and [run.name for run in runs] == ["a"] and answer.rows
    assert "answer.tex, report.html" in capsys.readouterr().out
