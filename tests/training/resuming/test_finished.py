"""A finished run is recognised by what was asked for, and by nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dreambooth.records import read_record, write_record
from dreambooth.training.resuming.finished import changed_logs, contents, damaged, finished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(spine, scored, encoders_dir) -> dict[str, Any]:
    """The configuration that the scored run would have if it was started again."""
    own = ("evaluation=quick", "evaluation.class_images=3")
    cfg = spine.compose(scored, *own, f"evaluation.encoders_dir='{encoders_dir}'")
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return plain


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *blocks, last = key.split(".")
    block = config
    for name in blocks:
        block = block[name]
    assert last in block and block[last] != value
    block[last] = value
    return config


def test_a_finished_run_returns_its_scores(scored, config):
    scores = json.loads((scored / "evaluation/quick/metrics.json").read_text())["scores"]
    assert scores and finished(scored, config) == scores
    assert finished(scored, changed(config, "evaluation.prompts", None)) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output_dir", "elsewhere"),
        ("cache_dir", "elsewhere"),
        ("logger.wandb", True),
        ("checkpoint.keep", 9),
        ("samples.every_n_steps", 7),
        ("objective", "dino"),
        ("evaluation.every_n_steps", 5),  # of a curve: a run without one cannot get it any more
        ("evaluation.metrics", ["dino"]),
    ],
)
def test_what_changes_nothing_that_is_asked_for(scored, config, key, value):
    assert finished(scored, changed(config, key, value)) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 1e-5),
        ("max_steps", 3),
        ("seed", 1),
        ("ppl", False),
        ("subject_phrase", "my dog"),
        ("sampling.num_inference_steps", 3),
        ("checkpoint.best", "harmonic"),
        ("resume", None),
        ("samples.seeds", [0, 1]),
        ("samples.prompts", ["a {subject} asleep"]),
        ("evaluation.name", "paper"),
        ("evaluation.images_per_prompt", 3),
        ("evaluation.encoders", "canonical"),
        ("evaluation.metrics", ["dino", "else"]),
    ],
)
def test_what_asks_for_something_else(scored, config, key, value):
    assert finished(scored, changed(config, key, value)) is None


def test_what_is_lost_is_made_again(scored, config, tmp_path):
    for lost in ("run.json", "model/model_index.json", "samples/final.png", "evaluation"):
        run = tmp_path / lost.replace("/", "-")
        shutil.copytree(scored, run, copy_function=shutil.copyfile)
        assert finished(run, config) is not None
        path = run / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert finished(run, config) is None, lost


def test_a_file_of_another_content_and_the_same_size_is_found(scored, config, tmp_path):
    run = Path(shutil.copytree(scored, tmp_path / "run", copy_function=shutil.copyfile))
    (image,) = (run / "samples/final").glob("*.png")
    weights = next((run / "model/unet").glob("*.safetensors"))
    assert finished(run, config) is not None and damaged(run) is None
    for path in (image, run / "samples/final.png", weights):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert damaged(run) == path
        path.write_bytes(whole)
    scores = run / "evaluation/quick/scores.csv"
    scores.write_text(scores.read_text().replace(".", ",", 1))
    assert finished(run, config) is None


def test_a_run_that_ended_before_its_record_said_so_is_not_finished(scored, config, tmp_path):
    record = read_record(scored / "run.json")
    shutil.copytree(scored, tmp_path / "run")
    write_record(tmp_path / "run/run.json", {**record, "finished": False})
    assert finished(tmp_path / "run", config) is None
    (tmp_path / "run/run.json").write_text("{}")  # an earlier version's
    assert finished(tmp_path / "run", config) is None


def test_scores_against_other_photos_are_not_its_own(scored, config, tmp_path):
    path = Path(shutil.copytree(scored, tmp_path / "run")) / "evaluation/quick/metrics.json"
    metrics = read_record(path)
    files = [Path(file) for file in metrics["references"]["files"]]
    for shown, is_done in (
        ([str(Path(*file.parts[-2:])) for file in files], True),  # from another directory
        ([str(Path("elsewhere", file.name)) for file in files], False),  # photos=elsewhere
        ([str(file) for file in files[:-1]], False),
    ):
        metrics["references"]["files"] = shown
        write_record(path, metrics)
        assert (finished(tmp_path / "run", config) is not None) is is_done


@pytest.mark.parametrize("name", ["metrics.csv", "curve.csv"])
def test_a_log_that_has_changed_is_said(scored, tmp_path, name):
    run = Path(shutil.copytree(scored, tmp_path / "run"))
    (run / "curve.csv").write_text("step,dino\n")
    write_record(run / "run.json", read_record(run / "run.json"), ["metrics.csv", "curve.csv"])
    assert not changed_logs(run)
    with open(run / name, "a") as file:
        file.write("7")
    assert changed_logs(run) == [run / name]
    (run / name).unlink()
    assert changed_logs(run) == [run / name]


def test_photos_count_by_their_content(scored, config, tmp_path):
    """A caption counts too; where the folder is gone, nothing says that they have changed."""
    run, photos = tmp_path / "run", tmp_path / "photos"
    record = read_record(scored / "run.json")
    shutil.copytree(Path(record["photos"][0]).parent, photos)
    shutil.copytree(scored, run)
    listed = sorted(photos.iterdir())
    record["contents"] = contents(listed, config)
    write_record(run / "run.json", record)
    assert finished(run, config) is not None
    (photos / "0.txt").write_text("a sks dog asleep")
    assert finished(run, config) is None
    (photos / "0.txt").unlink()
    listed[0].rename(photos / "9.png")
    assert finished(run, config) is None
    shutil.rmtree(photos)
    assert finished(run, config) is not None
