"""`resume_sweep=DIR` stands for the command line of an earlier sweep."""

from __future__ import annotations

import pytest

from dreambooth.cli.main import flags_first, parse
from dreambooth.cli.resume_sweep import with_sweep
from dreambooth.errors import UserError
from dreambooth.study.sweeps import SweepPlan


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "it's a sweep"
    folder.mkdir()
    SweepPlan(["lr=1,2", "samples.prompts=['a,b']"], ["--config-dir=mine"], []).write(folder)
    return folder


def resumed(*arguments: str) -> list[str]:
    return flags_first(with_sweep(parse(arguments)))


def test_it_alone_is_enough(folder):
    quoted = str(folder).replace("'", "\\'")
    own = ["lr=1,2", "samples.prompts=['a,b']", f"hydra.sweep.dir='{quoted}'"]
    expected = ["--multirun", "--config-dir=mine", *own]
    assert sorted(resumed(f"resume_sweep='{quoted}'")) == sorted(expected)
    assert sorted(resumed(f'resume_sweep="{folder}"', "-m")) == sorted(expected)


def test_hydras_own_options_and_a_dry_run_may_stand_beside_it(folder):
    more = ["hydra/launcher=joblib", "dry_run=true", "hydra.launcher.n_jobs=2"]
    assert set(more) < set(resumed(f'resume_sweep="{folder}"', *more))
    with pytest.raises(UserError, match="seed=7 would change them"):
        resumed(f'resume_sweep="{folder}"', "seed=7")


def test_without_a_folder_nothing_changes(tmp_path):
    assert resumed("resume_sweep=null", "lr=1") == ["resume_sweep=null", "lr=1"]
    with pytest.raises(UserError, match="nowhere is not the folder of a sweep"):
        resumed("resume_sweep=nowhere")
