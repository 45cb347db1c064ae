"""Scores as they are printed."""

from __future__ import annotations

from rich.console import Console

from dreambooth.evaluation.score import Scores
from dreambooth.evaluation.write import print_scores
from dreambooth.study.tables import _table


def test_a_folders_name_is_never_markup(capsys):
    scores = Scores(notes=["a/b [/n] has no manifest.csv"])
    print_scores(scores, "out/b [/c]", "photos in a [/d]")
    printed = capsys.readouterr().out
    for name in ("out/b [/c]", "a [/d]", "a/b [/n]"):
        assert name in printed


def test_neither_are_the_runs_of_a_report():
    console = Console(width=200)
    with console.capture() as printed:
        console.print(_table("2 runs: b [/c]", [{"metrics": "[dino,clip_t]"}], {"metrics": "m"}))
    assert "b [/c]" in printed.get() and "[dino,clip_t]" in printed.get()
