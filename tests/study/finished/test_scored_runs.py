"""Runs under their scores: what their scores depend on, and which scores are read."""

from __future__ import annotations

import json

import pytest

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import PROTOCOL
from dreambooth.study.finished.scored_runs import DRAWN, read_runs, scored_with
from dreambooth.training.resuming.fingerprint import flat
from run_records import DINO, metrics_file, read_metrics, write_metrics, write_run


def test_everything_that_scores_depend_on_is_compared(scored):
    """Of a real run: the trained model and its base are the only facts that may differ."""
    record = read_metrics(scored)
    assert set(record["provenance"]) - {"export", "base"} == set(DRAWN)
    assert set(record["protocol"]) == {*PROTOCOL, "templates"}
    compared = scored_with(record)
    for block in ("provenance", "protocol"):
        for key, value in record[block].items():
            assert key in ("export", "base") or compared[f"scored.{key}"] == value
    assert compared["scored.name"] == "quick"
    assert compared["scored.references"] == "training photos"
    for what, counts_as in (("training and other photos", "training photos"), ("others", "others")):
        other = {**record, "references": {**record["references"], "what": what}}
        assert scored_with(other)["scored.references"] == counts_as
    for network in ("dino", "clip", "lpips"):
        assert compared[f"scored.{network}.weights"] == record["encoders"][network]["weights"]


def test_settings_are_flat_resolved_and_those_of_the_scores(tmp_path):
    write_run(tmp_path, "below/a", 0.5, prior={"weight": 1.0, "seeds": [0, 1], "lr": "${lr}"})
    (run,) = read_runs(tmp_path)
    assert (
        run.name == "below/a" and run.scores == {DINO: 0.5} and run.metric_names == {DINO: "DINO"}
    )
    assert read_runs(tmp_path / "below/a")[0].name == "a"
    assert run.settings["prior.weight"] == 1.0 and run.settings["prior.seeds"] == [0, 1]
    assert (run.settings["prior.lr"], run.written["prior.lr"]) == (1e-4, "${lr}")
    assert run.settings["instance_prompt"] == "a dog" and run.settings["scored.name"] == "quick"
    assert flat({"a": {"b": {"c": 1}, "d": [1]}, "e": {}}) == {"a.b.c": 1, "a.d": [1]}


def test_the_scores_of_another_evaluation_can_be_read(tmp_path):
    first = write_run(tmp_path, "a", 0.5)
    write_run(tmp_path, "b", 0.6)
    scores = {DINO: {"metric": "DINO", "mean": 0.9}}
    write_metrics(first, {**read_metrics(first), "evaluation": "paper", "scores": scores})
    assert [run.scores.get(DINO) for run in read_runs(tmp_path)] == [0.5, 0.6]
    assert [run.scores.get(DINO) for run in read_runs(tmp_path, "paper")] == [0.9, None]
    assert "scored.name" not in read_runs(tmp_path, "paper")[1].settings


def test_a_record_that_cannot_be_read_is_one_sentence(tmp_path):
    run = write_run(tmp_path, "a", 0.5)
    metrics_file(run).write_text("{")
    with pytest.raises(
        UserError, match="metrics.json cannot be read .* evaluation=quick"
    ) as caught:
        read_runs(tmp_path)
    assert "\n" not in str(caught.value)
    record = json.loads((run / "run.json").read_text())
    del record["written"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="a/run.json was written by an earlier version"):
        read_runs(tmp_path)
