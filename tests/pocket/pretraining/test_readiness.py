"""What is refused before the first stage of pretraining begins."""

from __future__ import annotations

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.pocket.pretraining import shards, stages
from dreambooth.pocket.pretraining.architecture import build_vae
from dreambooth.pocket.pretraining.spec import STAGE_NEEDS
from small_pretraining import make


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Small shards, and stages that only note that they were run."""
    ran = []
    monkeypatch.setattr(shards, "SHARD", 16)
    noting = {name: lambda spec, name=name: ran.append(name) for name in stages.STAGES}
    monkeypatch.setattr(stages, "STAGES", noting)
    return ran


@pytest.mark.parametrize(
    ("override", "message"),
    (
        ("init=nowhere/at-all", "init=nowhere/at-all is not a pipeline folder .*lacks model_index"),
        ("photos=nowhere", "photos=nowhere is not a folder with pictures"),
        ("stages=[latents]", "holds no VAE: run stage vae before it, stages=.vae,latents."),
        ("stages=[vae,denoiser]", "holds no latents .*: run stage latents before it"),
        (
            "stages=[vae,export]",
            "no checkpoint of the denoiser: run stage denoiser before it",
        ),
        ("stages=[denoiser,latents,vae]", "run stage latents before it"),
    ),
)
def test_bad_input_is_one_sentence(tmp_path, nothing_runs, override, message):
    with pytest.raises(UserError, match=message) as caught:
        stages.pretrain(make(tmp_path, override))
    assert not nothing_runs and "\n" not in str(caught.value)


def test_what_can_be_run_is_run_in_order(tmp_path, nothing_runs):
    spec = make(tmp_path)
    stages.pretrain(spec)
    assert nothing_runs == list(spec.stages) == list(stages.STAGES) == list(STAGE_NEEDS)
    stages.pretrain(
        make(
            tmp_path,
            "stages=[encoders,probe]",
            "denoiser.scenes=16",
            "encoders.scenes=64",
            "decay=1",
        )
    )
    assert nothing_runs[-2:] == ["encoders", "probe"]


def test_a_folder_without_pictures_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="not a folder with pictures"):
        stages.pretrain(make(tmp_path, f"photos='{tmp_path}'"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence(tmp_path, nothing_runs):
    with pytest.raises(UserError, match="device=cuda needs a GPU"):
        stages.pretrain(make(tmp_path, "device=cuda"))
    assert not nothing_runs


def test_a_vae_of_other_channels_is_one_sentence(tmp_path):
    vae = build_vae([8, 8, 8, 8], latent_channels=8, norm_num_groups=4)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="latents of 8 channels, not vae.latent_channels=4"):
        stages.pretrain(make(tmp_path, "stages=[latents]"))


@pytest.mark.parametrize(
    ("state", "message"),
    (
        ({"seed": 1}, "seed=1, not 0"),
        ({}, "older form"),
    ),
)
def test_a_later_stage_s_checkpoint_is_read_first(tmp_path, nothing_runs, state, message):
    whole = dict.fromkeys(("module", "optimizer", "ema", "step", "samples", "seconds", "sessions"))
    torch.save(whole | state if state else {"step": 3}, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=message):
        stages.pretrain(make(tmp_path))
    assert not nothing_runs
    stages.pretrain(make(tmp_path, "stages=[probe]"))  # which has nothing to do with it
