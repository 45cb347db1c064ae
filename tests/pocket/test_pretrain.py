"""The pretraining stages one after another, as the command runs them, in the smallest sizes."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hydra import compose, initialize_config_dir

from dreambooth.config import CONF
from dreambooth.errors import UserError
from dreambooth.pocket import probe, scenes
from dreambooth.pocket.pretrain import pretrain

SMALL = (
    "save_seconds=60", "bf16=false", "workers=1", "tokens_per_scene=2",
    "vae.channels=[8,8,8,8]", "vae.latent_channels=4", "vae.scenes=16", "vae.samples=8",
    "vae.batch_size=4", "denoiser.channels=[16,16]", "denoiser.text_width=64",
    "denoiser.text_layers=1", "denoiser.norm_num_groups=4", "denoiser.scenes=16",
    "denoiser.samples=8", "denoiser.batch_size=4", "probe.scenes_count=16", "probe.samples=8",
    "probe.batch_size=4",
)  # fmt: skip


def make(folder, *more: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("pretrain", [*SMALL, f"cache='{folder}'", *more])


def test_stages_make_a_pipeline_that_draws_and_another_sitting_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", 16)
    cache, target, later = tmp_path / "cache", tmp_path / "weights", tmp_path / "later"
    for folder in (cache, later):  # the workers' own processes do not see the small shard
        (folder / "scenes").mkdir(parents=True)
        scenes.render_shard(0, folder / "scenes", "train")
    scenes.render_shard(probe.FIRST_SHARD, cache / "scenes", "any")
    wanted = "stages=[vae,latents,denoiser,probe,export]"
    pretrain(make(cache, wanted, f"export_to='{target}'"))

    pipeline = StableDiffusionPipeline.from_pretrained(target, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red dog", height=64, width=64, num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    assert len(probe.judge(probe.load_probe(target), np.asarray(image)[None])) == 1
    (cache / "quality.json").write_text('{"images": 4, "vae": {"scenes": 27.25}}')
    pretrain(make(cache, "stages=[export]", f"export_to='{target}'"))
    card = (target / "README.md").read_text()
    assert "| vae | scenes 27.2 |" in card
    os.utime(cache / "quality.json", (0, 0))  # of an earlier state
    pretrain(make(cache, "stages=[export]", f"export_to='{target}'"))
    assert "27.2" not in (target / "README.md").read_text()
    assert str(tmp_path) not in card + (target / "vae/config.json").read_text()

    pretrain(make(later, "stages=[vae,latents,denoiser]", f"init='{target}'", "vae.lr=0",
                  "denoiser.lr=0", "vae.samples=4", "denoiser.samples=4"))  # fmt: skip
    begun = torch.load(later / "denoiser.pt", weights_only=True)["module"]
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(begun[f"unet.{name}"], value), name


def test_an_unknown_stage_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="did you mean .?export"):
        pretrain(make(tmp_path, "stages=[exprt]"))
