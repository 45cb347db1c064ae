"""What is refused before the first stage of pretraining begins."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from dreambooth.cli.main import CONF
from dreambooth.errors import UserError
from dreambooth.pocket.pretraining import build, scenes
from dreambooth.pocket.pretraining import stages as pretrain
from small_pretraining import make

SHIPPED = OmegaConf.load(CONF / "pretrain.yaml")


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Small shards, and stages that only note that they were run."""
    ran = []
    monkeypatch.setattr(scenes, "SHARD", 16)
    stages = {name: lambda cfg, folder, name=name: ran.append(name) for name in pretrain.STAGES}
    monkeypatch.setattr(pretrain, "STAGES", stages)
    return ran


@pytest.mark.parametrize(
    ("override", "said"),
    (
        ("stages=[exprt]", "did you mean .?export"),
        ("stages=vae", "must be a list"),
        ("encoders.which=[dinno]", "did you mean .?dino"),
        ("encoders.which=clip", "must be a list"),
        ("device=tpu", "device=tpu is not usable"),
        ("decay=0", "decay=0 is not usable"),
        ("decay=1.5", "over 0 and at most 1"),
        ("decay=null", "over 0 and at most 1"),
        ("vae.scenes=8", "vae.scenes=8 is not usable: vae.scenes must be a multiple of 16"),
        ("denoiser.scenes=24", "a multiple of 16"),
        ("encoders.scenes=0", "a multiple of 16"),
        ("probe.scenes_count=17", "a multiple of 16"),
        ("denoiser.scenes=39088", "where the probe's own scenes begin"),
        ("denoiser.samples=0", "a whole number over 0"),
        ("threads=0", "null or over 0"),
        ("init=nowhere/at-all", "init=nowhere/at-all is not a pipeline folder .*lacks model_index"),
        ("photos=nowhere", "photos=nowhere is no folder with pictures"),
        ("stages=[latents]", "holds no VAE: run stage vae before it, stages=.vae,latents."),
        ("stages=[vae,denoiser]", "holds no latents .*: run stage latents before it"),
        ("stages=[vae,export]", "holds no state of the denoiser: run stage denoiser before it"),
        ("stages=[denoiser,latents,vae]", "run stage latents before it"),
    ),
)
def test_bad_input_is_one_sentence(tmp_path, nothing_runs, override, said):
    with pytest.raises(UserError, match=said) as caught:
        pretrain.pretrain(make(tmp_path, override))
    assert not nothing_runs and "\n" not in str(caught.value)


def test_what_can_be_run_is_run_in_order(tmp_path, nothing_runs):
    pretrain.pretrain(make(tmp_path))
    assert nothing_runs == list(SHIPPED.stages) == list(pretrain.STAGES)
    pretrain.pretrain(
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
    with pytest.raises(UserError, match="no folder with pictures"):
        pretrain.pretrain(make(tmp_path, f"photos='{tmp_path}'"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence(tmp_path, nothing_runs):
    with pytest.raises(UserError, match="device=cuda needs a GPU"):
        pretrain.pretrain(make(tmp_path, "device=cuda"))
    assert not nothing_runs


def test_a_vae_of_other_channels_is_one_sentence(tmp_path):
    build.build_vae([8, 8, 8, 8], 8, 4).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="latents of 8 channels, not vae.latent_channels=4"):
        pretrain.pretrain(make(tmp_path, "stages=[latents]"))


@pytest.mark.parametrize(
    ("state", "said"),
    (
        ({"seed": 1}, "seed=1, not 0"),
        ({}, "older form"),
    ),
)
def test_a_later_stages_state_is_read_first(tmp_path, nothing_runs, state, said):
    whole = dict.fromkeys(("module", "optimizer", "ema", "step", "samples", "seconds", "sittings"))
    torch.save(whole | state if state else {"step": 3}, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=said):
        pretrain.pretrain(make(tmp_path))
    assert not nothing_runs
    pretrain.pretrain(make(tmp_path, "stages=[probe]"))  # which has nothing to do with it
