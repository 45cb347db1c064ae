"""What W&B and TensorBoard show of a run that was trained in two sessions and scored in a third."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreambooth.training.logs.loggers import Loggers, make_loggers
from dreambooth.training.logs.run_log import RunLog, read_rows
from dreambooth.training.logs.shown_names import shown_numbers
from dreambooth.training.logs.wandb_run import WandbRun
from spine import Spine
from wandb_file import OfflineRun

pytestmark = pytest.mark.slow
SAMPLES = "samples/00_a-sks-dog"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shown(spine: Spine, encoders_dir: Path, home: Path, tmp_path_factory):
    """A run of a step, then of two, in one folder; `evaluate.py` scores it once more."""
    from hydra import compose, initialize_config_dir

    from dreambooth.cli.configuration.configs import CONF
    from dreambooth.cli.scoring.evaluate import evaluate

    out = tmp_path_factory.mktemp("shown") / "run"
    networks = ("evaluation=quick", f"evaluation.encoders_dir='{encoders_dir}'")
    networks += ("evaluation.class_images=2", "evaluation.metrics=[dino,clip_t,pres,div]")
    command = ("logger=wandb", "logger.tensorboard=true", "logger.artifacts=true", "logger.wait=60")
    command += ("samples.every_n_steps=1", "samples.seeds=[0,1]", "trainer.log_every_n_steps=1")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("API_KEY", "MODE", "DATA_DIR", "CACHE_DIR", "RUN_ID"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "none"))
        spine.run(out, *command, "max_steps=1")
        spine.run(out, *command, "max_steps=2", *networks)
        own = ("evaluation.name=more", f"run='{out}'", f"cache_dir='{spine.cache}'")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", [*networks, *own])
        assert evaluate(cfg) == 0
    return out


@pytest.fixture(scope="module")
def offline(shown: Path) -> OfflineRun:
    return OfflineRun(shown)


def test_all_sessions_are_one_run_of_wandb(shown, offline):
    assert len(offline.files) == 3
    runs = offline.of("run")
    assert len({run.run_id for run in runs}) == 1 and all(run.resume for run in runs)
    assert {run.display_name for run in runs[1:]} == {"photos-ppl-lr1e-3-2"}
    assert {(run.run_group, run.job_type) for run in runs} == {("photos", "train")}
    config = offline.config
    words = {"subject": "photos", "method": "full", "ppl": True, "lr": 1e-3, "max_steps": 2}
    assert {key: config[key] for key in words} == words
    assert config["settings"]["prior"]["num_class_images"] == 2


def test_curves_have_the_step_as_their_axis(offline):
    losses = {row["step"]: row for row in offline.rows if "loss/total" in row}
    assert set(losses) == {0, 1}
    assert all(row["loss/instance"] > 0 and row["loss/prior"] > 0 for row in losses.values())
    assert all("speed/images_per_second" in row for row in losses.values())
    assert all("step" in row for row in offline.rows)


def test_samples_lie_under_their_prompt_at_every_step_and_photos_once(shown, offline):
    rows = [row for row in offline.rows if SAMPLES in row]
    assert [row["step"] for row in rows] == [0, 1, 1, 2]  # the second 1 began the second session
    captions = [f"a sks dog (seed {seed})" for seed in (0, 1)]
    assert all(row[SAMPLES]["captions"] == captions for row in rows)
    (photos,) = [row["photos/subject"] for row in offline.rows if "photos/subject" in row]
    assert photos["count"] == 3
    last = [
        shown.glob(f"wandb/offline-run-*/files/{name}") for name in rows[-1][SAMPLES]["filenames"]
    ]
    (drawn,) = list(last[0])
    assert drawn.read_bytes() == next((shown / "samples/final").glob("*seed0.png")).read_bytes()


def test_scores_have_short_names_and_their_variants_are_in_the_config(shown, offline):
    metrics = json.loads((shown / "evaluation/quick/metrics.json").read_text())["scores"]
    names = ["dino", "clip_t", "clip_t_with_id", "pres", "div", "div_class", "real_dino"]
    for name in names:
        variant = offline.config[f"variant_{name}"]
        assert offline.summary[f"score/{name}"] == pytest.approx(metrics[variant]["mean"])
        assert f"score_more/{name}" in offline.summary  # of evaluate.py
    (row,) = [row for row in offline.rows if "score/dino" in row]
    assert row["step"] == 2 and row["table/images"]["ncols"] == 4 + len(names) - 1
    assert offline.summary["cost/seconds"] > 0


def test_the_export_is_an_artifact_and_every_file_is_in_the_runs_folder(shown, offline, home):
    artifacts = {artifact.type: artifact for artifact in offline.of("artifact")}
    assert {"model", "run_table"} <= set(artifacts)
    for artifact in artifacts.values():
        for entry in artifact.manifest.contents:
            assert not entry.local_path or Path(entry.local_path).is_relative_to(shown)
    files = {entry.path for entry in artifacts["model"].manifest.contents}
    assert "unet/config.json" in files
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_run_that_is_trained_anew_is_another_one(spine, shown, monkeypatch):
    spec = spine.spec(shown, "logger=wandb", "resume=null")
    made = []
    monkeypatch.setattr("dreambooth.training.logs.wandb_run.write_json", lambda path, note: None)
    monkeypatch.setattr(
        "dreambooth.training.logs.wandb_run.Session",
        lambda folder, names, *_: made.append(names.id),
    )
    WandbRun.begun(shown, spec.logger, begins_anew=False)
    WandbRun.begun(shown, spec.logger, begins_anew=True)
    monkeypatch.setenv("WANDB_RUN_ID", "of-an-agent")
    WandbRun.begun(shown, spec.logger, begins_anew=False)
    known = json.loads((shown / "wandb/this_run.json").read_text())["id"]
    assert made[0] == known != made[1] and made[2] == "of-an-agent"


def test_tensorboard_shows_the_same(shown, offline):
    events = EventAccumulator(str(shown / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"loss/instance", "loss/prior", "score/dino", "score_more/dino"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss/total")] == [0, 1]
    for row in offline.rows:
        if "loss/total" in row:
            shown_there = events.Scalars("loss/total")[row["step"]].value
            assert shown_there == pytest.approx(row["loss/total"], rel=1e-6)
    images = [tag for tag in tags["images"] if tag.startswith("samples/")]
    assert len(images) == 2 and {event.step for event in events.Images(images[0])} == {0, 1, 2}
    assert len([tag for tag in tags["images"] if tag.startswith("photos/")]) == 3


def test_a_viewer_that_fails_is_no_error_of_the_run(tmp_path, caplog):
    told: list[object] = []

    class Broken:
        def numbers(self, *_):
            told.append(1)
            raise OSError("the server is gone")

        def end(self, *_):
            told.append("closed")

    loggers = Loggers(RunLog(tmp_path), [Broken()])  # pyright: ignore[reportArgumentType]
    loggers.numbers({"loss": 1.0}, 0)
    loggers.numbers({"loss": 2.0}, 1)
    loggers.end({})
    assert told == [1, "closed"]
    assert "Broken failed and is shown nothing more: the server is gone" in caplog.text
    assert [row["loss"] for row in read_rows(tmp_path)] == ["1.0", "2.0"]


def test_only_the_first_process_shows_anything(spine, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    spec = spine.spec(tmp_path, "logger=wandb", "logger.tensorboard=true")
    assert not make_loggers(spec, 0).viewers and not list(tmp_path.iterdir())


def test_long_names_are_shown_short():
    names = {"loss/total": 1.0, "curve/dino.pocket.x.allpairs.macro": 2.0, "memory_gib": 3.0}
    short = {"loss/total": 1.0, "curve/dino": 2.0, "speed/memory_gib": 3.0}
    assert shown_numbers({**names, "curve/harmonic_mean": 4.0}) == {
        **short,
        "curve/harmonic_mean": 4.0,
    }
