"""`dry_run=true` prints the plan and leaves nothing on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dreambooth.cli.commands import train
from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.study.costs import guesses
from spine import ROOT, environment

pytestmark = pytest.mark.slow


def dry_run(folder: Path, *arguments: str, code: int = 0) -> str:
    """What is printed, or with another exit code than 0 the error."""
    command = [sys.executable, str(ROOT / "train.py"), "dry_run=true", "trainer=cpu", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code and bool(done.stderr) == bool(code), done.stderr
    assert list(folder.iterdir()) == []
    return done.stderr if code else done.stdout


@pytest.mark.thorough
def test_a_preset(tmp_path):
    own = ("ppl=false", "lr=1e-4", "train_text_encoder=false", "scheduler=lms")
    printed = dry_run(tmp_path, "experiment=learning_rate_grid", *own)
    assert "3 runs: multirun/" in printed and "scheduler=lms,subject=dog,train_text" in printed
    assert "1 for 3 runs: 300 optimizer steps after sharing, 600 before" in printed
    assert "0 class images" in printed and "24 samples" in printed
    assert "96 to score" in printed and "one run of method=full on one CPU core" in printed


def test_a_sweep_is_refused_where_its_runs_would_be(tmp_path):
    """With their own sentences: of a missing value, and of what only an optimizer can tell."""
    error = dry_run(
        tmp_path, "-m", "subject=folder,dog", "optimizer.betas=[0.9,0.99],[2,3]", code=2
    )
    first, *lines = error.splitlines()
    assert first == "error: 3 of 4 runs would be refused:" and len(lines) == 3
    missing = [
        line for line in lines if "subject.class_noun and subject.photos are missing" in line
    ]
    (betas,) = [line for line in lines if "optimizer.betas=[2, 3] is not usable: it must" in line]
    assert len(missing) == 2 and "subject=dog" in betas


def planned(capsys: pytest.CaptureFixture, *overrides: str) -> str:
    """In this process: what the command prints."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "dry_run=true", "logger=csv"])
    assert train(cfg) == 0
    return capsys.readouterr().out


def test_a_single_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guesses, "speed_of_matmul", lambda *_: 2e12)
    folder = f"output_dir='{tmp_path / 'run'}'"
    sd = ("model=sd15", "photos.root=null", "trainer=cpu", folder)
    with pytest.raises(UserError, match="checkpoint.best=first is not a rule"):
        planned(capsys, *sd, "checkpoint.best=first")
    assert capsys.readouterr().out == ""
    printed = planned(capsys, *sd)
    assert list(tmp_path.iterdir()) == [] and f"1 run: {tmp_path / 'run'}" in printed
    assert "time       about 7.5 hours" in printed and "GiB while training, of" in printed
    assert "the time is a guess from 27 PFLOP at 1 TFLOP/s: half of" in " ".join(printed.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is here")
def test_a_plan_for_a_gpu_elsewhere_is_no_error(tmp_path, capsys):
    elsewhere = ("trainer=gpu", "trainer.devices=4", f"output_dir='{tmp_path / 'run'}'")
    printed = planned(capsys, *elsewhere)
    assert "for another machine" in printed and "GiB while training" in printed
    lost = " ".join(planned(capsys, *elsewhere, "model.path=org/mine", "model.name=mine").split())
    assert "time unknown" in lost and "the model is not here" in lost
    with pytest.raises(UserError, match=r"evaluation.every_n_steps=1.5 must be a whole number"):
        planned(capsys, *elsewhere, "evaluation.every_n_steps=1.5")
