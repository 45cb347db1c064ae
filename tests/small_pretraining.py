"""The pretraining command in the smallest sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dreambooth.cli.main import CONF
from dreambooth.pocket.pretraining import probe, scenes

SMALL = (
    "save_seconds=60",
    "bf16=false",
    "workers=1",
    "tokens_per_scene=2",
    "vae.channels=[8,8,8,8]",
    "vae.latent_channels=4",
    "vae.scenes=16",
    "vae.samples=8",
    "vae.batch_size=4",
    "denoiser.channels=[16,16]",
    "denoiser.text_width=64",
    "denoiser.text_layers=1",
    "denoiser.norm_num_groups=4",
    "denoiser.scenes=16",
    "denoiser.samples=8",
    "denoiser.batch_size=4",
    "probe.scenes_count=16",
    "probe.samples=8",
    "probe.batch_size=4",
    "encoders.width=32",
    "encoders.layers=1",
    "encoders.text_layers=1",
    "encoders.identities=30",
    "encoders.scenes=16",
    "encoders.samples=8",
    "encoders.batch_size=8",
)


def make(folder: Path, *more: str) -> DictConfig:
    """The config of a sitting whose cache is `folder`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("pretrain", [*SMALL, f"cache='{folder}'", *more])


def small_shards(patch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Caches with 16 scenes for the model, and 16 for the probe."""
    patch.setattr(scenes, "SHARD", 16)
    for folder in folders:  # the workers' own processes do not see the small shard
        (folder / "scenes").mkdir(parents=True)
        scenes.render_shard(0, folder / "scenes", "train")
        scenes.render_shard(probe.FIRST_SHARD, folder / "scenes", "any")
