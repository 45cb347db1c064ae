"""Scores and curves of other weights: set aside, brought back, and never beside the wrong model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dreambooth.records import write_record
from dreambooth.training.resuming.superseded import (
    bring_back,
    set_aside,
    set_curve_aside,
    weights_of_run,
)


def change(run: Path, weights: str, before: str | None) -> None:
    """Do as the end of a run does whose weights are not those that its record names."""
    set_aside(run, weights, before, False)
    write_record(run / "run.json", {"weights": weights})
    bring_back(run, weights)


def test_scores_come_back_with_their_weights(tmp_path):
    def scored(name: str, export: str) -> Path:
        file = tmp_path / "evaluation" / name / "metrics.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"provenance": {"export": export}}))
        return file

    old, new = scored("paper", "aa"), scored("quick", "bb")
    assert set_aside(tmp_path, "bb", "aa", False) == [old.relative_to(tmp_path)]
    assert new.exists() and (tmp_path / "superseded/aa/evaluation/paper/metrics.json").exists()
    change(tmp_path, "aa", "bb")
    assert old.exists() and not new.exists()
    change(tmp_path, "bb", "aa")
    assert new.exists() and not old.exists()


def test_a_curve_comes_back_with_its_weights(tmp_path):
    curve = tmp_path / "curve.csv"
    curve.write_text("of aa")
    change(tmp_path, "bb", "aa")
    assert not curve.exists()
    change(tmp_path, "aa", "bb")
    assert curve.read_text() == "of aa"
    (tmp_path / "superseded/aa/curve.csv").write_text("earlier")
    change(tmp_path, "aa", "aa")
    assert curve.read_text() == "of aa"


@pytest.mark.parametrize("kills", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("weights", ["bb", "aa"])
def test_a_kill_between_two_files_parts_none_for_good(tmp_path, monkeypatch, kills, weights):
    of = json.dumps({"provenance": {"export": "aa"}})
    files = {"curve.csv": "", "curve.png": ""}
    files |= {"evaluation/quick/scores.csv": "", "evaluation/quick/metrics.json": of}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write_record(tmp_path / "run.json", {"weights": "aa"})
    if weights == "aa":
        change(tmp_path, "bb", "aa")
    moves = []

    def replace(*places, move=os.replace):
        moves.append(places)
        if len(moves) == kills:
            raise KeyboardInterrupt
        move(*places)

    with monkeypatch.context() as context:
        context.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            change(tmp_path, weights, weights_of_run(tmp_path))
    change(tmp_path, weights, weights_of_run(tmp_path))
    place = tmp_path / ("superseded/aa" if weights == "bb" else "")
    assert all((place / name).exists() for name in files)


@pytest.mark.parametrize(("record", "place"), [({"weights": "aa"}, "aa"), ({}, "stopped")])
def test_a_training_without_a_curve_begins_without_an_earlier_ones(tmp_path, record, place):
    write_record(tmp_path / "run.json", record)
    (tmp_path / "curve.csv").write_text("")
    set_curve_aside(tmp_path)
    assert [path.parent.name for path in tmp_path.rglob("curve.csv")] == [place]
