"""The other processes of one job: the command line that starts them, and when they end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from dreambooth.cli.refusals.processes import STARTED, same_job
from spine import environment


def test_one_job_of_a_sweep_keeps_the_users_folder(monkeypatch):
    typed = ["train.py", "--multirun", "--config-dir=mine", "experiment=own", "lr=1,2"]
    job = OmegaConf.create({"hydra": {"overrides": {"task": ["experiment=own", "lr=2"]}}})
    for name in STARTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", typed)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", job)
    with same_job("out=1"):
        assert sys.argv[:4] == ["train.py", "--config-dir=mine", "experiment=own", "lr=2"]
        assert sys.argv[4:6] == ["output_dir='out=1'", "hydra.run.dir='out=1'"]
        assert HydraConfig.instance().cfg is None
    assert sys.argv is typed and HydraConfig.instance().cfg is job


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the number of a dead parent")
def test_another_rank_ends_when_the_process_that_started_it_is_gone():
    rank = "import time\nfrom dreambooth.cli.refusals.processes import end_with_parent\n"
    rank += "end_with_parent()\nprint('up', flush=True)\ntime.sleep(60)"
    first = (
        "import os, subprocess, sys\n"
        "env = {**os.environ, 'LOCAL_RANK': '1'}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {rank!r}], env=env)\n"
        "sys.stdin.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", first],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.read() == ""  # until the last of both has ended
    assert process.wait() == -9
