"""Runs that would fill the disk are refused before they begin, with settings that fit."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals import resources
from dreambooth.errors import UserError

GIB = 2**30


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    own = ("model=sd15", "photos.root=x", "evaluation=none", "reuse=off")
    own += (f"output_dir='{tmp_path_factory.mktemp('runs')}/run'",)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(own)), resolve=True)


def test_what_fits_is_named(config, monkeypatch):
    monkeypatch.setattr(resources, "free_bytes", lambda _: 50 * GIB)
    with pytest.raises(UserError) as refused:
        resources.refuse_full_disk([config] * 10)
    text = str(refused.value)
    assert "has 50.0 GiB free, and these 10 runs would write about" in text
    assert "export.dtype=float16 (" in text and "export.kind=none reuse=off (" in text
    assert "pass checkpoint.keep_when_finished=0 (" not in text  # float32 exports are too large


def test_what_has_room_is_not_refused(config, monkeypatch):
    monkeypatch.setattr(resources, "free_bytes", lambda _: 400 * GIB)
    resources.refuse_full_disk([config] * 10)
    resources.refuse_full_disk([])


def test_an_unknown_model_is_not_refused(config, monkeypatch):
    monkeypatch.setattr(resources, "free_bytes", lambda _: 0)
    resources.refuse_full_disk([{**config, "model": {"name": "mine", "path": "org/mine"}}])
