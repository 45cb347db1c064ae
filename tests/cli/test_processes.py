"""The command line that Lightning repeats to start the other processes of one job."""

from __future__ import annotations

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from dreambooth.cli.processes import STARTED, same_job


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
