"""Training waits for nothing of W&B, and without a server everything is in the run's folder."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import wandb

from dreambooth.training.logs import wandb_session
from dreambooth.training.logs.wandb_session import Session, WandbNames
from wandb_file import OfflineRun
from wandb_server import wandb_server

NAMES = WandbNames("abc123", "dreambooth", "dog-ppl", "study", "train", ("dog",))
SOON = 5.0  # seconds, on a machine that does much else


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path, caplog) -> Path:
    """A machine where nobody has logged in."""
    for name in ("API_KEY", "MODE", "DATA_DIR", "CACHE_DIR", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
    wandb.teardown()  # W&B reads the environment once
    caplog.set_level(logging.INFO)
    return tmp_path / "home"


def session(folder: Path, seconds: float = 60.0) -> Session:
    return Session(folder, NAMES, {"lr": 1e-4}, seconds)


def is_logged(folder: Path) -> bool:
    run = OfflineRun(folder)
    return any(row.get("loss") == 0.5 and row["step"] == 3 for row in run.rows)


def logged(folder: Path) -> Path:
    started = time.monotonic()
    made = session(folder)
    made.send(lambda run: run.log({"loss": 0.5, "step": 3}))
    assert time.monotonic() - started < 1
    made.close()
    return folder


def test_without_a_key_the_run_is_offline_under_its_names(tmp_path, caplog, monkeypatch):
    launch = "wandb.sdk.launch"
    for name in [name for name in sys.modules if name.startswith(launch)]:
        monkeypatch.delitem(sys.modules, name)  # another test file of this process loaded it
    out = logged(tmp_path / "run")
    assert is_logged(out) and f"wandb sync {out / 'wandb'}" in caplog.text
    (record,) = OfflineRun(out).of("run")
    assert (record.run_id, record.project, record.run_group) == ("abc123", "dreambooth", "study")
    assert (record.display_name, record.job_type) == ("dog-ppl", "train")
    assert list(record.tags) == ["dog"] and record.resume
    metrics = {m.name or m.glob_name: m for m in OfflineRun(out).of("metric")}
    assert metrics["*"].step_metric == "step" and metrics["step"].options.hidden
    assert wandb.run is None
    assert not any(name.startswith(launch) for name in sys.modules)  # takes long to load


def silent() -> tuple[socket.socket, str]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_server_that_does_not_answer_costs_no_time(tmp_path, monkeypatch, caplog, kind):
    server, url = silent()
    monkeypatch.setattr(wandb_session, "ANSWER", 0.2)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if kind == "silent":
        monkeypatch.setenv("WANDB_BASE_URL", url)
    with server:
        out = logged(tmp_path / "run")
    assert is_logged(out)
    assert "cannot be used" in caplog.text and "wandb sync" in caplog.text


@pytest.mark.slow
def test_an_online_run_and_a_server_that_falls_silent(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        logged(tmp_path / "run")
        assert {"loss": 0.5, "step": 3}.items() <= server.rows[0].items()
        assert f"{server.url}/me/dreambooth/runs/abc123" in caplog.text
        made = session(tmp_path / "later", seconds=0.5)
        while made.url is None and not made.failed:
            time.sleep(0.05)
        server.answers.clear()
        made.send(lambda run: run.log({"loss": 0.5, "step": 3}))
        started = time.monotonic()
        made.close()
        assert time.monotonic() - started < SOON
        assert "has not taken everything" in caplog.text
        assert f"wandb sync --include-online {made.place}` sends the rest" in caplog.text
        made.ended.wait(60)


def test_the_end_waits_for_seconds_and_no_longer(tmp_path, monkeypatch, caplog):
    released = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: released.wait(60))
    made = session(tmp_path / "run", seconds=0.2)
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < SOON
    assert "has not begun after 0 s" in caplog.text and "metrics.csv" in caplog.text
    released.set()
    made.ended.wait(60)


@pytest.mark.parametrize("when", ["import", "init", "after"])
def test_whatever_fails_is_one_warning(tmp_path, monkeypatch, caplog, when):
    def fail(*_, **__):
        raise ConnectionError("the service has died")

    if when == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    elif when == "init":
        monkeypatch.setattr(wandb, "init", fail)
    made = session(tmp_path / "run")
    made.send(fail)
    made.send(fail)
    made.close()
    made.send(fail)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("Weights & Biases failed")
    assert "metrics.csv" in warnings[0] and wandb.run is None
