"""Scores as they are printed and written."""

from __future__ import annotations

import csv

import pytest

from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import (
    COLUMNS,
    print_scores,
    scores_folder,
    write_scores,
)
from dreambooth.records import read_record


def test_a_folders_name_is_never_markup(capsys):
    scores = Scores(notes=["a/b [/n] has no manifest.csv"])
    print_scores(scores, "out/b [/c]", "photos in a [/d]")
    printed = capsys.readouterr().out
    for name in ("out/b [/c]", "a [/d]", "a/b [/n]"):
        assert name in printed


def scores() -> Scores:
    entry = {"metric": "DINO", "mean": 0.5, "interval_95": None}
    real = {f"real_ref.v.{kind}_self": {**entry, "mean": 0.75} for kind in ("exclude", "include")}
    item = {"set": "subject", "file": "0.png", "prompt": "p", "class_only": "c", "seed": 1}
    return Scores([{**item, "v": 0.5}, {"set": "photo", "w": 1.0}], {"v": entry, **real})


def test_the_table_has_a_row_per_image_and_the_record_the_means(tmp_path):
    folder = scores_folder(tmp_path, "quick")
    assert folder == tmp_path / "evaluation" / "quick"
    write_scores(folder, scores(), {"evaluation": "quick"})
    with open(folder / "scores.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["set", "file", "prompt", "class_only", "seed", "v", "w"]
    assert tuple(first)[:5] == COLUMNS
    assert (first["v"], first["w"], second["v"], second["seed"]) == ("0.5", "", "", "")
    record = read_record(folder / "metrics.json")
    assert list(record.pop("tables")) == ["scores.csv"]
    assert record == {"evaluation": "quick", "scores": scores().summary}


OF = {"metrics": ["dino", "clip_t"], "references": {"files": ["a.png"]}, "protocol": {"seeds": 1}}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, None),
        ({"metrics": ["clip_t", "dino", "div"]}, None),
        ({"metrics": ["dino"]}, "metrics"),
        ({"references": {"files": ["b.png"]}}, "references"),
        ({"protocol": {"seeds": 2}, "metrics": ["div"]}, "protocol"),
    ],
)
def test_scores_of_something_else_take_no_others_place(tmp_path, caplog, changed, word):
    caplog.set_level("INFO")
    write_scores(tmp_path, scores(), OF)
    earlier = (tmp_path / "metrics.json").read_bytes()
    write_scores(tmp_path, scores(), {**OF, **changed})
    kept = list(tmp_path.glob("superseded/*/metrics.json"))
    assert [path.read_bytes() for path in kept] == ([earlier] if word else [])
    assert [path.with_name("scores.csv").exists() for path in kept] == ([True] if word else [])
    assert (f"are of other {word}" in caplog.text) if word else not caplog.text


def test_real_images_stand_beside_the_score_and_have_no_row_of_their_own(capsys):
    print_scores(scores(), "quick", "the training photos")
    printed = capsys.readouterr().out
    assert "0.500" in printed and "0.750 (0.750)" in printed and "real_ref" not in printed
