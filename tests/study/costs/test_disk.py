"""What runs write, against measured runs and bounds."""

from __future__ import annotations

import pytest
import yaml

from composed_configs import composed
from dreambooth.cli.configuration.configs import CONF
from dreambooth.study.costs.disk import Needs, disk_of, disk_of_runs


def test_a_full_fine_tuning_writes_what_was_measured():
    """Stable Diffusion 1.5 with its text encoder: a checkpoint of 11.8 GB and 4.3 GB of export."""
    sd = ("model=sd15", "photos.root=x", "max_steps=1", "evaluation=none")
    disk = disk_of(composed(*sd, "train_text_encoder=true"))
    assert disk is not None
    assert disk.left + disk.shared == pytest.approx(11.8e9 + 4.3e9, rel=0.01)


STUDY = ("model=sd15", "photos.root=x", "max_steps=1000", "evaluation=paper", "samples.seeds=[0]")
STUDY += ("cache_dir=no_cache",)  # where nothing is shared yet
STUDY += ("evaluation.metrics=[dino,clip_i,clip_t,pres,div]",)  # the five of the published studies


SUBJECTS = [path.stem for path in sorted((CONF / "subject").glob("*.yaml"))]
SUBJECTS = [name for name in SUBJECTS if name not in ("folder", "fabric", "world")]


def study(*more: str) -> Needs:
    """What 30 subjects x PPL on and off need, pictures and caches included."""
    one = composed(*STUDY, *more)
    configs = []
    for name in SUBJECTS:
        subject = yaml.safe_load((CONF / "subject" / f"{name}.yaml").read_text())
        own = {**one["subject"], **subject}
        own = {"subject": own, "class_prompt": f"a {own['class_noun']}"}
        configs += [{**one, **own, "ppl": ppl} for ppl in (True, False)]
    needs = disk_of_runs(configs)
    assert len(configs) == 60 and needs is not None
    return needs


def gigabytes(needs: Needs, *names: str) -> float:
    return sum(needs.left[name] for name in names or needs.left) / 1e9


def test_the_disk_of_a_study_of_stable_diffusion_is_bounded():
    """What float32 exports and two checkpoints a run left: 1.5 TB."""
    assert gigabytes(study("checkpoint.keep_when_finished=2")) > 1400
    half = ("export.dtype=float16", "checkpoint.keep_when_finished=0")
    needs = study(*half, "reuse=off")
    pictures = gigabytes(needs, "pictures", "class images")
    assert gigabytes(needs, "models") < 104 and gigabytes(needs) - pictures < 110
    assert needs.while_training / 1e9 < 32  # three checkpoints of one run
    # the cache's trainings, which no other run of this study goes on from
    shared = study(*half)
    assert gigabytes(shared, "shared trainings") == pytest.approx(30 * 2**30 / 1e9)
    for lora in (("method=lora",), ("export.kind=lora", "reuse=off")):
        assert gigabytes(study(*half, *lora)) - pictures < 3
    assert gigabytes(study(*half, "export.kind=none", "reuse=off")) == pytest.approx(pictures)


def test_class_images_are_counted_once_for_all_runs_of_a_class():
    one = composed(*STUDY, "prior.num_class_images=1000", "subject=dog")
    other = {**one, "seed": 1}
    alone, both = disk_of_runs([one]), disk_of_runs([one, other])
    assert alone is not None and both is not None
    assert alone.left["class images"] == both.left["class images"] > 1000 * 512**2


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
    assert same.total - one.total == pytest.approx(2 * (disk.left - disk.checkpoints))
    assert apart.total - one.total == pytest.approx(2 * disk.left)
