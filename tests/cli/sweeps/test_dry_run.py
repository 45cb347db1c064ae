"""`dry_run=true` prints the plan and leaves nothing on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dreambooth.cli.commands import train
from dreambooth.cli.configuration.configs import CONF
from spine import ROOT, environment

pytestmark = pytest.mark.slow


def dry_run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "train.py"), "dry_run=true", "trainer=cpu", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_a_preset(tmp_path):
    own = ("ppl=false", "lr=1e-4", "train_text_encoder=false")
    printed = dry_run(tmp_path, "experiment=learning_rate_grid", *own)
    assert "9 runs: multirun/" in printed and "scheduler=lms,subject=dog,train_text" in printed
    assert "1 for 9 runs: 300 optimizer steps after sharing, 1800 before" in printed
    assert "0 class images" in printed and "72 samples" in printed
    assert "288 to score" in printed and "one run of method=full on one CPU core" in printed


def test_a_sweep_shows_what_will_fail(tmp_path):
    printed = dry_run(tmp_path, "-m", "lr=-1,1e-4", "hydra.sweep.dir=there/sweep")
    assert "2 runs: there/sweep" in printed and "will fail: lr=-1 is not usable" in printed
    assert "1 for 1 run: 200 optimizer steps" in printed


def test_a_single_run(tmp_path, capsys):
    """In this process: what the command prints of a model that takes seconds to describe."""
    overrides = [
        "model=sd15",
        "photos.root=null",
        "trainer=cpu",
        f"output_dir='{tmp_path / 'run'}'",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "dry_run=true"])
    assert train(cfg) == 0 and list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert f"1 run: {tmp_path / 'run'}" in printed
    assert "time       unknown" in printed and "GiB while training" in printed
