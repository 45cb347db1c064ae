"""What runs write, against measured runs and bounds."""

from __future__ import annotations

import pytest

from composed_configs import composed
from dreambooth.study.costs.disk import disk_of, disk_of_runs


def test_a_full_fine_tuning_writes_what_was_measured():
    """Stable Diffusion 1.5 with its text encoder: a checkpoint of 11.8 GB and 4.3 GB of export."""
    sd = ("model=sd15", "photos.root=x", "max_steps=1", "evaluation=none")
    disk = disk_of(composed(*sd, "train_text_encoder=true"))
    assert disk is not None
    assert disk.left + disk.shared == pytest.approx(11.8e9 + 4.3e9, rel=0.01)


STUDY = ("model=sd15", "photos.root=x", "max_steps=1000", "evaluation=paper", "samples.seeds=[0]")
STUDY += ("evaluation.metrics=[dino,clip_i,clip_t,pres,div]",)  # the five of the published studies


def study(*more: str) -> float:
    """Gigabytes that 30 subjects x PPL on and off leave, pictures included."""
    config = composed(*STUDY, "reuse=off", *more)
    total = disk_of_runs([config] * 60)
    disk = disk_of(config)
    assert total is not None and disk is not None
    return (total - disk.while_training) / 1e9  # which is gone when they have finished


def test_the_disk_of_a_study_of_stable_diffusion_is_bounded():
    """What float32 exports and two checkpoints a run left: 1.5 TB."""
    assert study("checkpoint.keep_when_finished=2") > 1400
    half = ("export.dtype=float16", "checkpoint.keep_when_finished=0")
    assert study(*half) < 110
    disk = disk_of(composed(*STUDY))
    assert disk is not None
    pictures = 60 * disk.images / 1e9  # 132 and those of other classes, and 4 samples
    assert study(*half, "method=lora", "export.kind=lora") - pictures < 3
    assert study(*half, "export.kind=none") == pytest.approx(pictures)


def test_the_disk_of_a_local_model_is_read_from_its_files():
    pocket = disk_of(composed("checkpoint.keep_when_finished=0"))
    lora = disk_of(composed("method=lora", "checkpoint.keep_when_finished=0"))
    assert pocket is not None and lora is not None
    assert pocket.left - pocket.images == pytest.approx(38.6e6, rel=0.01)
    assert 1e5 < lora.left - lora.images < 1e6


def test_runs_of_one_training_have_its_checkpoints_once():
    runs = [composed("max_steps=100", f"scheduler={name}") for name in ("ddim", "pndm", "lms")]
    others = [composed("max_steps=100", f"seed={seed}") for seed in range(3)]
    one, disk = disk_of_runs(runs[:1]), disk_of(runs[0])
    same, apart = disk_of_runs(runs), disk_of_runs(others)
    assert disk is not None and one is not None and same is not None and apart is not None
    assert disk.checkpoints > 1e8  # float32 weights and two moments of 9.6 M parameters
    assert same - one == pytest.approx(2 * (disk.left - disk.checkpoints))
    assert apart - one == pytest.approx(2 * disk.left)
