"""A package that only some options need is missed by those options alone, in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals.checks import check_packages
from dreambooth.errors import UserError
from dreambooth.evaluation.networks import check_networks
from spine import ROOT, environment

OPTIONS = {
    "train optimizer=adamw_8bit": ("bitsandbytes", "choose optimizer=adamw"),
    "train trainer=t4_16gb": ("bitsandbytes", "choose optimizer=adamw"),
    "train scheduler=lms": ("scipy", "choose another scheduler"),
    "train prior.sampler={name:LMSDiscreteScheduler}": ("scipy", "choose another prior.sampler"),
    "generate scheduler=lms": ("scipy", "choose another scheduler"),
    "evaluate scheduler=lms": ("scipy", "choose another scheduler"),
    "train evaluation.every_n_steps=5": ("matplotlib", "set it to 0 for no curve"),
}


def composed(command: str):
    name, *overrides = command.split()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides)


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_without_its_package_is_refused(monkeypatch, command):
    package, instead = OPTIONS[command]
    check_packages(composed(command))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}, .*`pip install {package}`"):
        check_packages(composed(command))
    with pytest.raises(UserError, match=f", or {instead}\\.$"):
        check_packages(composed(command))
    check_packages(composed(command.split()[0]))  # the default needs none of them


def test_lpips_is_needed_by_div_with_published_networks_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    for encoders in ("canonical", ["pocket", "vgg"]):
        with pytest.raises(UserError, match=r"evaluation.metrics=\[div\] needs the package lpips"):
            check_networks(encoders, ["dino", "div"])
    check_networks("canonical", ["dino", "clip_i", "clip_t", "pres"])
    check_networks("pocket", ["div"])


def site_without(folder: Path, missing: tuple[str, ...]) -> Path:
    """Link every installed package into `folder` but for the missing ones and their metadata."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name.partition("-")[0] not in missing:
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_that_uses_none_of_them_goes_through_without_them(spine, encoders_dir, tmp_path):
    missing = ("bitsandbytes", "wandb", "lpips", "matplotlib", "scipy")
    site = site_without(tmp_path / "site", missing)
    overrides = spine.overrides(
        "max_steps=1",
        "ppl=false",
        "logger=wandb",
        "evaluation=quick",
        "evaluation.class_images=2",
        f"evaluation.encoders_dir='{encoders_dir}'",
        "hydra.run.dir=run",
    )
    env = {**environment(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{site}"}
    done = subprocess.run(  # -S: without the folder that holds all packages
        [sys.executable, "-S", str(ROOT / "train.py"), *overrides],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    (warning,) = [line for line in said.splitlines() if "Weights & Biases" in line]
    assert "failed" in warning and "wandb" in warning and "metrics.csv" in warning
    assert (tmp_path / "run/metrics.csv").exists()
    assert (tmp_path / "run/evaluation/quick/scores.csv").exists()
