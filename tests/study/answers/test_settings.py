"""What varies between runs, what is averaged, and what is never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.metrics.aggregate import bootstrap_interval
from dreambooth.study.answers.settings import by_setting, varying
from dreambooth.study.finished.scored_runs import read_runs
from run_records import DINO, metrics_file, read_metrics, write_metrics, write_record, write_run


def settings_of(root: Path) -> list[dict]:
    runs = read_runs(root)
    return by_setting(runs, varying(runs))


def test_a_setting_is_the_mean_over_subjects_of_their_means_over_seeds(tmp_path):
    for i, score in enumerate((0.1, 0.2, 0.3)):
        write_run(tmp_path, f"dog{i}", score, "dog", seed=i)
    write_run(tmp_path, "cat", 0.6, "cat")
    write_run(tmp_path, "other", 0.9, "cat", lr=1e-3)
    first, second = sorted(settings_of(tmp_path), key=lambda line: line["lr"])
    assert first[DINO] == pytest.approx((0.2 + 0.6) / 2)  # and not the mean over the four runs
    assert (first["subjects"], first["runs"], first[f"{DINO}.subjects"]) == (2, 4, 2)
    expected = bootstrap_interval([0.2, 0.6], ["dog", "cat"], seed=0)
    assert (first[f"{DINO}.low_95"], first[f"{DINO}.high_95"]) == pytest.approx(expected)
    assert second[DINO] == 0.9 and second[f"{DINO}.low_95"] is None


@pytest.mark.parametrize(
    "other",
    [
        {"variant": DINO.replace("hub", "hf")},
        {"evaluation": "paper"},
        {"weights": "def"},  # another encoder under the same variant id
        {"record": {"protocol": {"prompts": "cornell", "templates": "t"}}},
        {"record": {"protocol": {"prompts": "quick", "templates": "since changed"}}},
        {"record": {"provenance": {"sampler": "DDIMScheduler", "options": {"eta": 1.0}}}},
        {"record": {"provenance": {"sampler": "DDIMScheduler", "resolution": 256}}},
        {"record": {"provenance": {"sampler": "DDIMScheduler", "dtype": "bfloat16"}}},
        {"record": {"provenance": {"sampler": "DDIMScheduler", "dtypes": ["torch.float16"]}}},
        {"record": {"references": {"what": "other photos", "files": []}}},
        {"record": {"encoders": {"dino": {"weights": "abc"}, "lpips": {"weights": "321"}}}},
    ],
)
def test_scores_of_another_kind_are_never_averaged(tmp_path, other):
    write_run(tmp_path, "a", 0.2, "dog")
    write_run(tmp_path, "b", 0.8, "cat", **other)
    for line in settings_of(tmp_path):
        for key in (DINO, DINO.replace("hub", "hf")):
            assert line.get(key) in (None, 0.2, 0.8)


def test_columns_are_what_differs_and_says_something_new(tmp_path):
    for name, ppl, weight in (("a", True, 1.0), ("b", False, 0.5), ("c", False, 1.0)):
        prior = {"weight": weight, "seed": 0, "batch_size": "${batch_size}"}
        write_run(tmp_path, name, 0.2, ppl=ppl, batch_size=4, prior=prior)
    for name, size in (("full", 4), ("lora", 8)):  # the prior's size follows; the name tells rank
        prior = {"weight": 1.0, "seed": 0, "batch_size": "${batch_size}"}
        write_run(
            tmp_path, name, 0.5, batch_size=size, method={"name": name, "rank": size}, prior=prior
        )
    metrics_file(tmp_path / "full").unlink()  # not scored, which is no setting
    assert varying(read_runs(tmp_path)) == ["method.name", "ppl", "batch_size", "prior.weight"]


SCHEDULERS = {"ddim": {"eta": 0.0}, "pndm": {"skip_prk_steps": True}}


def test_what_the_samplers_setting_says_is_not_said_again_about_the_images(tmp_path):
    """`scheduler` says it; a run that was scored again with another sampler is still kept apart."""
    for name, options in SCHEDULERS.items():
        for subject in ("dog", "cat"):
            drawn = {"provenance": {"sampler": name, "options": options, "steps": 20}}
            scheduler = {"name": name, "options": options}
            write_run(tmp_path, f"{name}{subject}", 0.5, subject, scheduler=scheduler, record=drawn)
    metrics_file(tmp_path / "ddimdog").unlink()  # not scored, which is no setting
    assert varying(read_runs(tmp_path)) == ["subject.name", "scheduler.name"]
    assert [line["runs"] for line in settings_of(tmp_path)] == [2, 2]
    metrics = read_metrics(tmp_path / "pndmdog")
    write_metrics(
        tmp_path / "pndmdog", {**metrics, "provenance": {**metrics["provenance"], "steps": 9}}
    )
    assert varying(read_runs(tmp_path)) == ["subject.name", "scheduler.name", "scored.steps"]


def test_networks_are_named_by_the_model_where_no_score_could_mix_them(tmp_path):
    for name, variant in (("pocket", DINO.replace("vits16", "pocket")), ("sd15", DINO)):
        write_run(tmp_path, name, 0.5, variant=variant, weights=name, model={"name": name})
    assert varying(read_runs(tmp_path)) == ["model.name"]
    write_run(tmp_path, "mixed", 0.5, variant=DINO, weights="pocket", model={"name": "pocket"})
    assert varying(read_runs(tmp_path)) == ["model.name", "scored.dino.weights"]


def composed(root: Path, name: str, *overrides: str) -> None:
    """A scored run under the real configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, f"output_dir='{root / name}'"])
    write_run(root, name, 0.5)
    write_record(root / name, OmegaConf.to_container(config, resolve=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "keys"),
    [
        (("photos.rendered=1", "photos.rendered=3"), ["photos.rendered"]),
        (("identifier=xyz", ""), ["identifier"]),
        (("class_prompt=pet", ""), ["class_prompt"]),
        (("model.recommended.batch_size=2", ""), ["model.recommended.batch_size"]),
        (
            ("checkpoint.best=harmonic evaluation.every_n_steps=5", ""),
            ["checkpoint.best", "evaluation.every_n_steps"],
        ),
        (("+scheduler.options.eta=1.0", ""), ["scheduler.options.eta"]),
        (("subject=dog", "subject=vase"), ["subject.name"]),  # its noun goes with it
        (
            ("subject=dog", "subject=dog subject.class_noun=pet", "subject=cat"),
            ["subject.name", "subject.class_noun"],
        ),
        (("method=full max_steps=9", "method=lora max_steps=9"), ["method.name", "lr"]),
        (("model=pocket", "model=sd15"), ["model.name", "lr", "max_steps"]),
        (
            (
                "method=lora max_steps=9",
                "method=lora method.adapter.r=8 max_steps=9",
                "max_steps=9",
            ),
            ["method.name", "lr", "method.adapter.r"],
        ),
    ],
)
def test_what_a_user_sets_is_a_column_and_what_follows_is_none(tmp_path, choices, keys):
    for number, choice in enumerate(choices):
        composed(tmp_path, str(number), *choice.split())
    assert varying(read_runs(tmp_path)) == keys
    assert len(settings_of(tmp_path)) == (1 if keys == ["subject.name"] else len(choices))
