"""CSV always; Weights & Biases offline without a key, and never fatal."""

from __future__ import annotations

import csv
import logging
import sys
from pathlib import Path

import pytest
import torch
import wandb
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.training.loggers import (
    TolerantWandbLogger,
    finish_loggers,
    log_images,
    make_loggers,
    merge_csv,
)
from dreambooth.training.module import DreamBooth
from dreambooth.training.spec import LoggerSpec
from spine import Spine

WITH_WANDB = LoggerSpec(True, "dreambooth", "dog_1", "sweep", ["dog", "full"])
CSV_ALONE = LoggerSpec(False, "", "", "", [])
WANDB = ("logger=wandb", "samples.every_n_steps=1", "trainer.log_every_n_steps=1")


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """A machine where nobody has logged in, and any connection is an error."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")  # restored after what Lightning sets
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")


def columns(folder: Path) -> dict[str, list[str]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in rows[0]}


def launch_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("wandb.sdk.launch")}


@pytest.mark.slow
def test_offline_without_a_key(no_key, spine: Spine, tmp_path, monkeypatch):
    for name in launch_modules():  # of an earlier test
        monkeypatch.delitem(sys.modules, name)
    out = spine.run(tmp_path / "run", *WANDB)
    assert not launch_modules()  # W&B Launch takes two seconds to import
    assert wandb.run is None  # closed, so that the next run of a sweep starts its own
    wandb.teardown()  # W&B's own process may write a little later
    offline = list((out / "wandb").glob("offline-run-*/*.wandb"))
    assert len(offline) == 1
    data = offline[0].read_bytes()
    for part in (b"loss/instance", b"loss/prior", b"images_per_second", b"a sks dog", b"max_steps"):
        assert part in data
    assert len(columns(out)["loss/total"]) == 2


@pytest.mark.slow
def test_a_run_that_fails_keeps_its_numbers_and_closes_it(no_key, spine, tmp_path, monkeypatch):
    errors = DreamBooth.errors
    monkeypatch.setattr(
        DreamBooth, "errors", lambda s, b: errors(s, b) * (torch.nan if s.global_step else 1)
    )
    with pytest.raises(UserError, match="nan at step 2"):
        spine.run(tmp_path / "run", *WANDB, "samples.every_n_steps=0")
    assert wandb.run is None
    assert float(columns(tmp_path / "run")["loss/total"][0]) > 0


def test_only_the_first_process_starts_a_run(spine, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    spec = spine.spec(tmp_path, "logger=wandb")
    assert spec.logger.wandb and len(make_loggers(tmp_path, spec.logger, spec.config)) == 1


class Broken:
    """A W&B run of which everything raises."""

    def __getattr__(self, name: str):
        raise ConnectionError("the service has died")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["import", "init", "after"])
def test_a_failing_wandb_stops_nothing(no_key, spine, tmp_path, monkeypatch, caplog, when):
    if when == "import":
        monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    elif when == "init":
        monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(OSError("refused")))
    else:
        run = Broken()
        object.__setattr__(run, "config", {})
        monkeypatch.setattr(wandb, "init", lambda **_: run)
    with caplog.at_level(logging.WARNING):
        out = spine.run(tmp_path / "run", *WANDB)
    assert "Weights & Biases" in caplog.text
    assert len(columns(out)["loss/total"]) == 2
    assert (out / "model" / "model_index.json").exists()


def test_wandb_is_told_what_the_run_is(no_key, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(wandb, "init", lambda **kw: given.update(kw) or Broken())
    make_loggers(tmp_path, WITH_WANDB, {"lr": 1e-4})
    assert given["project"] == "dreambooth" and given["group"] == "sweep"
    assert given["name"] == "dog_1" and given["tags"] == ["dog", "full"]
    assert given["settings"].mode == "offline"


def test_an_unreachable_server_holds_a_run_for_a_minute_at_most(no_key, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "init", lambda **kw: given.update(kw) or Broken())
    make_loggers(tmp_path, WITH_WANDB, {})
    assert given["settings"].mode == "online"
    assert 0 < given["settings"].init_timeout <= 60 and 0 < given["settings"].finish_timeout <= 60


def test_images_are_shown_with_their_prompts(no_key, tmp_path, monkeypatch):
    shown = []

    class Run:
        config: dict = {}

        def log(self, metrics, **_):
            shown.append(metrics)

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    monkeypatch.setattr(wandb, "Image", lambda image, caption: (image.size, caption))
    Run.config = type("Config", (), {"update": lambda self, *a, **k: None})()
    loggers = make_loggers(tmp_path, WITH_WANDB, {})
    images = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]
    log_images(loggers, "samples", images, ["a sks dog", "a dog"])
    assert shown == [{"samples": [((8, 8), "a sks dog"), ((8, 8), "a dog")]}]


@pytest.mark.slow
def test_every_sheet_of_samples_is_logged_the_final_one_too(no_key, spine, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        TolerantWandbLogger,
        "log_image",
        lambda self, key, images, caption: shown.append((key, [i.size for i in images], caption)),
    )
    spine.run(tmp_path / "run", *WANDB, "samples.seeds=[0,1]")
    sheet = ("samples", [(16, 16)] * 2, ["a sks dog"] * 2)
    assert shown == [sheet] * 3  # before training, after step 1, and the final one


def test_a_resumed_session_replaces_the_rows_from_its_start(tmp_path):
    sessions = ([(0, 1.0), (1, 2.0), (2, 3.0)], [(1, 20.0), (2, 30.0)], [], [(2, 300.0), (3, 4.0)])
    for i, rows in enumerate(sessions):
        folder = tmp_path / "logs" / f"version_{i + 9}"  # 10 comes after 9, not before
        folder.mkdir(parents=True)
        with open(folder / "metrics.csv", "w") as file:
            file.write("epoch,loss,step\n" + "".join(f"0,{v},{s}\n" for s, v in rows))
    merge_csv(tmp_path)
    assert columns(tmp_path) == {
        "step": ["0", "1", "2", "3"],
        "loss": ["1.0", "20.0", "300.0", "4.0"],
    }


def test_a_row_that_a_killed_process_cut_off_is_left_out(tmp_path):
    folder = tmp_path / "logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,loss,step\n0,1.0,0\n0,2.0")
    merge_csv(tmp_path)
    assert columns(tmp_path) == {"step": ["0"], "loss": ["1.0"]}


def test_csv_alone_needs_no_wandb(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    loggers = make_loggers(tmp_path, CSV_ALONE, {})
    loggers[0].log_metrics({"loss": 1.5}, step=3)
    finish_loggers(loggers, {}, tmp_path)
    assert columns(tmp_path) == {"step": ["3"], "loss": ["1.5"]}
