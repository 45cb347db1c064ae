"""`resume_sweep=DIR` stands for the command line of an earlier sweep."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from dreambooth.cli.main import flags_first, parse
from dreambooth.cli.sweeps.planning import PlannedJob, refuse_shared_folders
from dreambooth.cli.sweeps.resume_sweep import refuse_changed, with_sweep
from dreambooth.errors import UserError
from dreambooth.study.finished.sweeps import SweepPlan


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


def test_a_changed_preset_trains_no_run_anew(folder):
    def plan(settings: str | None, *overrides: str) -> SweepPlan:
        return SweepPlan(overrides, [], [{"folder": "run", "overrides": [], "settings": settings}])

    for before, now in (
        (plan("a", "lr=1"), plan("a", "lr=1")),
        (plan("a", "lr=1"), plan("b", "lr=1", "seed=2")),  # another command
        (plan(None, "lr=1"), plan("b", "lr=1")),  # of a version that did not note it
    ):
        refuse_changed(folder, before, now)
    launcher = plan("b", "lr=1", "hydra/launcher=joblib")
    for now in (launcher, SweepPlan(["lr=1"], [], [])):
        with pytest.raises(UserError, match="settings of run have changed since"):
            refuse_changed(folder, plan("a", "lr=1"), now)


def test_different_jobs_share_no_folder():
    def job(folder: str, *overrides: str) -> PlannedJob:
        return PlannedJob(overrides, folder, OmegaConf.create(), OmegaConf.create())

    refuse_shared_folders([job("a", "seed=0"), job("a", "seed=0"), job("b", "seed=1")])
    with pytest.raises(UserError, match="experiment=x and experiment=y would write into the same"):
        refuse_shared_folders(
            [job("run", "lr=1", "experiment=x"), job("run", "lr=1", "experiment=y")]
        )


def test_without_a_folder_nothing_changes(tmp_path):
    assert resumed("resume_sweep=null", "lr=1") == ["resume_sweep=null", "lr=1"]
    with pytest.raises(UserError, match="nowhere is not the folder of a sweep"):
        resumed("resume_sweep=nowhere")
