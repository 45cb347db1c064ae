"""Pretraining in the smallest sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.spec import PretrainSpec, from_plain

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
    "flow.width=16",
    "flow.layers=2",
    "flow.heads=2",
    "flow.scenes=16",
    "flow.samples=8",
    "flow.batch_size=4",
    "probe.scenes=16",
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


def make(folder: Path, *more: str) -> PretrainSpec:
    """Compose the spec of a session whose cache is `folder`, in the smallest sizes."""
    return _compose([*SMALL, f"cache='{folder}'", *more])


def shipped() -> PretrainSpec:
    """Compose the spec of conf/pretrain.yaml as it is."""
    return _compose([])


def _compose(overrides: list[str]) -> PretrainSpec:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("pretrain", overrides)
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return from_plain({str(key): value for key, value in plain.items()})


def small_shards(patch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make files of 16 scenes, and put one for the model and one for the probe into caches."""
    patch.setattr(shards, "SHARD", 16)
    for folder in folders:
        (folder / "scenes").mkdir(parents=True)
        shards.render_shard(0, folder / "scenes", "train", 16)
        shards.render_shard(shards.PROBE_SHARD, folder / "scenes", "any", 16)
