"""What follows training: the record belongs to the export, whatever happens after it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dreambooth.data.photos import contents_hash
from dreambooth.errors import UserError
from dreambooth.evaluation.record import Scores
from dreambooth.sampling import draw as draw_module
from dreambooth.sampling.samples import SampleSet
from dreambooth.study.finished.runs import Run
from dreambooth.training.finish import Finish
from dreambooth.training.job import run
from dreambooth.training.phase import train_phases
from spine import checkpoint

pytestmark = pytest.mark.slow


def interrupted(*_):
    signal.raise_signal(signal.SIGINT)


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_the_record_is_of_the_exported_model_even_where_sampling_breaks_off(
    spine, one_step, tmp_path, monkeypatch
):
    out = copytree(one_step, tmp_path / "run")
    with monkeypatch.context() as context:
        context.setattr("dreambooth.training.finish.export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spine.run(out, "max_steps=2", "ppl=false")
    assert not json.loads((out / "run.json").read_text())["finished"]  # its weights may be gone
    monkeypatch.setattr(SampleSet, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spine.run(out, "max_steps=2", "ppl=false", "scheduler=pndm")
    read = Run.read(out)
    exported = read.load_model().base_state("unet")
    trained = checkpoint(out)
    assert trained["global_step"] == 2 == read.config["max_steps"]
    assert read.sampling.scheduler == "PNDMScheduler"
    assert all(
        torch.equal(exported[k.removeprefix("unet.")], v) for k, v in trained["state_dict"].items()
    )


def test_earlier_scores_and_curves_stay_only_beside_the_same_weights(
    spine, one_step, tmp_path, monkeypatch
):
    out = copytree(one_step, tmp_path / "run")
    earlier = [out / "curve.csv", out / "curve.png"]
    earlier += [out / "evaluation" / "paper" / name for name in ("metrics.json", "scores.csv")]
    images = out / "evaluation" / "paper" / "0.png"
    for path in (*earlier, images):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    spine.run(out, "max_steps=1", "ppl=false", "samples.seeds=[1]")
    assert all(path.exists() for path in earlier)
    with monkeypatch.context() as context:  # the model is new, and the record not yet
        context.setattr("dreambooth.training.finish.set_aside", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spine.run(out, "max_steps=2", "ppl=false")
    spine.run(out, "max_steps=2", "ppl=false")
    assert not any(path.exists() for path in earlier)
    assert images.exists()  # a manifest says what it shows
    (kept,) = (out / "superseded").iterdir()  # under the hash of what they scored
    assert all((kept / path.relative_to(out)).exists() for path in earlier)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("make_evaluation", UserError("no weights.")),
        ("make_evaluation", ValueError("odd shape")),
        ("write_scores", UserError("the disk is full.")),
    ],
)
def test_a_run_is_not_lost_when_it_cannot_be_scored(
    spine, one_step, tmp_path, monkeypatch, caplog, place, error
):
    copytree(one_step, tmp_path / "run")

    scored: Any = SimpleNamespace(score_model=lambda *_: (Scores(), {}))
    monkeypatch.setattr("dreambooth.training.finish.make_evaluation", lambda *_: scored)
    monkeypatch.setattr(f"dreambooth.training.finish.{place}", raising(error))
    spec = spine.spec(tmp_path / "run", "max_steps=1", "ppl=false", "evaluation=quick")
    outcome = run(spec)
    assert outcome.code == 0 and outcome.scores is None
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    (warning,) = [text for text in warnings if "python evaluate.py" in text]
    assert str(error).rstrip(".") in warning
    assert "evaluation=quick" in warning
    assert {path.name for path in spec.folder.iterdir()} >= {"run.json", "model", "samples"}


def test_a_model_is_recorded_before_its_other_layouts(spine, one_step, tmp_path, monkeypatch):
    out = copytree(one_step, tmp_path / "run")
    full = raising(UserError("the disk is full"))
    monkeypatch.setattr("dreambooth.training.exports.export.save_single_file", full)
    with pytest.raises(UserError):
        spine.run(out, "max_steps=2", "ppl=false", "export.layouts=[diffusers,single_file]")
    read = Run.read(out)
    assert read.config["max_steps"] == 2 and not read.record["finished"]
    read.check_export()


def test_a_curve_that_lacks_its_last_point_costs_no_model(caplog):
    curve: Any = SimpleNamespace(
        last_step=1, path="curve.csv", seconds=0.0, score=raising(OSError("gone"))
    )
    finish: Any = Finish.__new__(Finish)
    finish.last_step, finish.phases, finish.loggers = 2, {}, SimpleNamespace(numbers=print)
    finish.spec = SimpleNamespace(checkpoint=SimpleNamespace(best=None))
    finish._finish_curve(curve)
    assert "curve.csv has no scores of step 2: gone" in caplog.text
    finish.spec.checkpoint.best = "harmonic"
    with pytest.raises(OSError):
        finish._finish_curve(curve)


def test_a_photo_that_goes_while_training_costs_nothing(spine, tmp_path, monkeypatch):
    photos = Path(copytree(spine.photos, tmp_path / "photos"))
    photo = (photos / "0.png").read_bytes()

    def train(*args):
        result = train_phases(*args)
        (photos / "0.png").unlink()
        return result

    monkeypatch.setattr("dreambooth.training.job.train_phases", train)
    options = ("max_steps=1", "ppl=false", f"subject.photos='{photos}'")
    out = spine.run(tmp_path / "run", *options)
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] and (out / "model").is_dir()
    (photos / "0.png").write_bytes(photo)
    assert record["contents"]["photos"] == contents_hash(sorted(photos.iterdir()))


def test_a_run_returns_its_scores_and_records_what_it_is(spine, encoders_dir, tmp_path):
    more = ("evaluation=quick", "evaluation.metrics=[dino]", "evaluation.class_images=1")
    more += (f"evaluation.encoders_dir='{encoders_dir}'", "scheduler=euler")
    spec = spine.spec(tmp_path / "run", "max_steps=1", "ppl=false", *more)
    scores = run(spec).scores
    assert scores is not None and scores.summary
    metrics = json.loads((spec.folder / "evaluation/quick/metrics.json").read_text())
    assert metrics["scores"].keys() == scores.summary.keys()
    record = json.loads((spec.folder / "run.json").read_text())
    assert record["model"] == {
        "name": "pocket",
        "path": str(spine.model),
        "revision": None,
        "variant": None,
        "max_sequence_length": None,
    }
    assert record["subject"] == {"name": "photos", "class_noun": "dog", "live": False}
    assert record["subject_phrase"] == "sks dog" and record["best_step"] is None
    assert record["photos"] == [str(path) for path in sorted(spine.photos.iterdir())]
    assert record["sampling"]["scheduler"] == "EulerDiscreteScheduler"
    assert record["config"]["lr"] == 1e-3 and record["written"]["instance_prompt"].startswith("a $")
    stages = ["export", "samples", "evaluation", "verification"]
    assert list(record["costs"]["stages"])[-4:] == stages


def test_a_sample_that_is_scored_too_is_drawn_once(spine, encoders_dir, tmp_path, monkeypatch):
    seen, draw = [], draw_module.draw

    def watched(model, prompts, seeds, *more):
        seen.extend(zip(prompts, seeds, strict=True))
        return draw(model, prompts, seeds, *more)

    monkeypatch.setattr("dreambooth.sampling.samples.draw", watched)
    monkeypatch.setattr("dreambooth.evaluation.evaluate.draw", watched)
    settings = (
        "max_steps=1",
        "ppl=false",
        "samples.prompts=['a {subject} on the beach']",
        "evaluation=quick",
        "evaluation.class_images=0",
        "evaluation.metrics=[dino]",
        "evaluation.encoders=pocket",
        f"evaluation.encoders_dir='{encoders_dir}'",
    )
    out = spine.run(tmp_path, *settings)
    assert len(seen) == len(set(seen)) == 8  # 4 prompts x 2 seeds
    (sample,) = (out / "samples/final").glob("*.png")
    (scored,) = (out / "evaluation/quick").glob("*beach_seed0.png")
    assert Image.open(sample).tobytes() == Image.open(scored).tobytes()
