"""The settings of pretraining: built from the configuration, and refused where unusable."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.pocket.pretraining import shards
from small_pretraining import make, shipped
from spine import environment


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 16)


@pytest.mark.parametrize(
    ("override", "message"),
    (
        ("stages=[exprt]", "did you mean .?export"),
        ("stages=vae", "must be a list"),
        ("encoders.which=[dinno]", "did you mean .?dino"),
        ("encoders.which=clip", "must be a list"),
        ("device=tpu", "device=tpu is not usable"),
        ("decay=0", "decay=0 is not usable"),
        ("decay=1.5", "greater than 0 and at most 1"),
        ("decay=null", "greater than 0 and at most 1"),
        ("vae.scenes=8", "vae.scenes=8 is not usable: vae.scenes must be a multiple of 16"),
        ("denoiser.scenes=24", "a multiple of 16"),
        ("encoders.scenes=0", "a multiple of 16"),
        ("probe.scenes=17", "a multiple of 16"),
        ("denoiser.scenes=39088", "where the probe's own scenes begin"),
        ("denoiser.samples=0", "a whole number greater than 0"),
        ("threads=0", "null or a whole number greater than 0"),
        ("workers=1.5", "workers=1.5 is not usable: workers must be a whole number greater than 0"),
        ("vae.batch_size=0", "vae.batch_size must be a whole number greater than 0"),
    ),
)
def test_a_value_that_no_stage_could_use_is_one_sentence(tmp_path, override, message):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, override)
    assert "\n" not in str(caught.value)


def test_the_shipped_configuration_is_usable(monkeypatch):
    monkeypatch.undo()
    spec = shipped()
    assert spec.cache == Path(".cache/pretrain") and spec.init is None and spec.export_to is None
    assert spec.vae.channels == (16, 32, 64, 128) and spec.encoders.which == ("dino", "clip")
    assert spec.denoiser.lr == 1e-3 and spec.probe.scenes % 4096 == 0


def test_training_joins_a_stage_s_own_values_with_the_shared_ones(tmp_path):
    spec = make(tmp_path, "denoiser.lr=0.5", "decay=0.75", "seed=4", "device=cpu")
    training = spec.training(spec.denoiser)
    assert (training.lr, training.samples, training.batch_size) == (0.5, 8, 4)
    assert (training.decay, training.seed, training.device) == (0.75, 4, "cpu")
    assert spec.training(spec.probe).lr == spec.probe.lr


def test_a_spec_is_frozen_and_a_changed_copy_is_checked_again(tmp_path):
    spec = make(tmp_path)
    with pytest.raises(FrozenInstanceError):
        spec.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(spec, device="cpu").device == "cpu"
    with pytest.raises(UserError, match="device=tpu"):
        replace(spec, device="tpu")


def test_a_spec_needs_neither_torch_nor_hydra():
    code = "import sys, dreambooth.pocket.pretraining.spec; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "numpy" in loaded, done.stderr
    assert not loaded & {"torch", "diffusers", "transformers", "hydra", "omegaconf"}
