"""A finished run read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.records import amend_record, write_record
from dreambooth.study.finished.runs import Run, find_runs
from run_records import DINO, metrics_file, read_metrics, write_metrics, write_run


def test_what_a_run_was_is_read_without_any_resolver(scored, spine, tmp_path):
    run = Run.read(str(scored))
    spec = spine.spec(tmp_path, "evaluation=quick")
    assert run.sampling == spec.sampling and run.words == spec.subject.words
    assert run.config["output_dir"] == str(scored)
    assert run.config["lr"] == 1e-3 and run.config["text_encoder_lr"] is None
    assert "${" not in json.dumps(run.record["config"])
    assert run.record["written"]["class_prompt"] == "a ${subject.class_noun}"
    assert run.config["class_prompt"] == "a dog"
    assert run.record["written"].keys() == run.record["config"].keys()
    losses = run.last_losses()
    assert losses.keys() == {"loss/instance", "loss/prior"} and min(losses.values()) > 0


def test_what_another_training_logs_is_not_the_runs(tmp_path):
    run = write_run(tmp_path, "dog", 0.5)
    (run / "metrics.csv").write_text("step,loss/instance\n1,0.25\n")
    (run / "curve.csv").write_text("step,dino\n1,0.5\n")
    record = json.loads((run / "run.json").read_text())
    assert Run.read(run).last_losses() and Run.read(run).curve()  # of an earlier version
    write_record(run / "run.json", record, ["metrics.csv", "curve.csv"])
    assert Run.read(run).last_losses() == {"loss/instance": 0.25} and Run.read(run).curve()
    amend_record(run / "run.json")  # as a training does that begins in its folder
    assert not Run.read(run).log() and not Run.read(run).last_losses() and not Run.read(run).curve()


def test_a_run_that_was_moved_is_where_it_is(scored, tmp_path):
    moved = Path(shutil.copytree(scored, tmp_path / "moved"))
    assert Run.read(moved).config["output_dir"] == str(moved)
    assert find_runs(tmp_path) == [moved]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"is not a finished run .*hydra.run.dir=.*run`"),
        ("", "is not a finished run"),
        ("{", "is not a finished run"),
        ("[]", "is not a finished run .*it holds no JSON object"),
        ('{"config": {}}', "was written by an earlier version: repeat the command"),
        ('{"config": {}, "written": {}}', "was written by an earlier version"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_sentence(tmp_path, content, expected):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "run.json").write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        Run.read(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    with pytest.raises(UserError, match="is not a folder"):
        Run.read(tmp_path / "absent")


def test_damaged_phases_are_one_sentence(tmp_path):
    run = Run.read(write_run(tmp_path, "a", 0.5))
    run.record["config"]["method"] = {"phases": [{"max_steps": "x"}, 5]}
    with pytest.raises(UserError, match="run.json is damaged"):
        run.last_step  # noqa: B018


@pytest.mark.parametrize("damage", ["bit", "removed"])
def test_a_damaged_export_is_refused_by_name(scored, tmp_path, damage):
    run = Run.read(shutil.copytree(scored, tmp_path / "run"))
    run.check_export()
    path = run.folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.unlink() if damage == "removed" else path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    words = f"{path.name} is (missing|not what the run exported): run the run's command again"
    with pytest.raises(UserError, match=words):
        run.load_model()


def test_scores_are_those_of_the_runs_own_evaluation_or_of_the_one_asked_for(tmp_path):
    run = Run.read(write_run(tmp_path, "a", 0.5))
    own = run.metrics()
    assert run.evaluations == ["quick"] and own == run.metrics("quick") and own["scores"][DINO]
    for name in ("cornell", "paper"):
        write_metrics(run.folder, {**read_metrics(run.folder), "evaluation": name})
    assert run.evaluations == ["cornell", "paper", "quick"]
    assert run.metrics() == own and run.metrics("paper")["evaluation"] == "paper"
    assert run.metrics("none") == {}
    metrics_file(run.folder).unlink()
    assert run.metrics()["evaluation"] == "cornell" and run.metrics("quick") == {}


def test_a_run_that_was_not_scored_has_no_metrics(tmp_path):
    run = Run.read(write_run(tmp_path, "a", 0.5))
    metrics_file(run.folder).unlink()
    assert run.metrics() == {} and run.evaluations == [] and run.last_losses() == {}
