"""Many runs side by side: what is averaged, what is never mixed, PRES over other subjects."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from dreambooth.cli.main import CONF
from dreambooth.errors import UserError
from dreambooth.evaluation.plan import Item, make_images
from dreambooth.evaluation.score import load_encoders
from dreambooth.metrics.aggregate import bootstrap_interval
from dreambooth.study.settings import by_setting, read_runs, varying
from dreambooth.study.tables import print_table, report, rows
from tiny_encoders import pocket_encoders

DINO = "dino.vits16.hub.r256c224_bicubic.allpairs.macro"


def write_run(
    root: Path,
    name: str,
    score: float,
    subject: str = "dog",
    variant: str = DINO,
    evaluation: str = "quick",
    weights: str = "abc",
    record: dict | None = None,
    **config,
) -> Path:
    """A finished run's records, with one score; `record` replaces parts of metrics.json."""
    run = root / name
    run.mkdir(parents=True)
    config = {"subject": {"name": subject}, "seed": 0, "ppl": True, "lr": 1e-4, **config}
    config |= {"instance_prompt": "a ${subject.name}"}
    config |= {"output_dir": "${hydra:runtime.output_dir}"}
    costs = {"seconds": 1.5, "peak_memory_gib": 0.5}
    said = {"subject": {"name": subject, "class_noun": "dog"}, "costs": costs}
    said["config"] = config
    (run / "run.json").write_text(json.dumps(said))
    networks = {"dino": {"weights": weights}, "lpips": {"weights": "123"}}
    metrics = {
        "evaluation": evaluation,
        "protocol": {"prompts": "quick", "templates": "t"},
        "provenance": {"export": name, "sampler": "DDIMScheduler", "options": {}},
        "encoders": {"family": "pocket", **networks},
        "references": {"what": "training photos", "files": []},
        "scores": {variant: {"metric": "DINO", "mean": score}},
        **(record or {}),
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def settings_of(root: Path) -> list[dict]:
    runs = read_runs(root)
    return by_setting(runs, varying(runs))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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


def test_variants_of_one_metric_have_columns_of_their_own(tmp_path, capsys):
    write_run(tmp_path, "a", 0.25, "dog")
    write_run(tmp_path, "b", 0.75, "cat", variant=DINO.replace("hub", "hf"))
    print_table(tmp_path)
    printed = capsys.readouterr().out
    assert "DINO 1" in printed and "DINO 2" in printed and DINO in printed
    by_run = {row["run"]: row for row in table(tmp_path / "runs.csv")}
    assert float(by_run["a"][DINO]) == 0.25 and by_run["b"][DINO] == ""


def test_columns_are_what_differs_and_says_something_new(tmp_path):
    for name, ppl, weight in (("a", True, 1.0), ("b", False, 0.5), ("c", False, 1.0)):
        prior = {"weight": weight, "seed": 0, "batch_size": "${batch_size}"}
        write_run(tmp_path, name, 0.2, ppl=ppl, batch_size=4, prior=prior)
    for name, size in (("full", 4), ("lora", 8)):  # the prior's size follows; the name tells rank
        prior = {"weight": 1.0, "seed": 0, "batch_size": "${batch_size}"}
        write_run(
            tmp_path, name, 0.5, batch_size=size, method={"name": name, "rank": size}, prior=prior
        )
    (tmp_path / "full" / "metrics.json").unlink()  # not scored, which is no setting
    keys = varying(read_runs(tmp_path))
    assert keys == ["method.name", "ppl", "batch_size", "prior.weight"]
    first = next(row for row in rows(tmp_path) if row["run"] == "a")
    assert first["run"] == "a" and first["ppl"] is True and first["seconds"] == 1.5
    assert "output_dir" not in first and "instance_prompt" not in first


def composed(root: Path, name: str, *overrides: str) -> None:
    """A run under the real configuration, as `close` records it."""
    run = write_run(root, name, 0.5)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides])
    said = json.loads((run / "run.json").read_text())
    said["config"] = OmegaConf.to_container(config, resolve=False)
    (run / "run.json").write_text(json.dumps(said))


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
                "method=lora method.lora.rank=8 max_steps=9",
                "max_steps=9",
            ),
            ["method.name", "lr", "method.lora.rank"],
        ),
    ],
)
def test_what_a_user_sets_is_a_column_and_what_follows_is_none(tmp_path, choices, keys):
    for number, choice in enumerate(choices):
        composed(tmp_path, str(number), *choice.split())
    assert varying(read_runs(tmp_path)) == keys
    assert len(settings_of(tmp_path)) == (1 if keys == ["subject.name"] else len(choices))


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        report(str(tmp_path), True, "cpu", None, str(tmp_path / "cache"))


def facts_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["provenance"]


def picture(seed: int) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((40, 40))


@pytest.fixture
def three_dogs(tmp_path) -> tuple[Path, Path]:
    """Two dogs and a cat under one setting, with images and photos; and the encoders."""
    encoders_dir, root = pocket_encoders(tmp_path / "encoders"), tmp_path / "runs"
    dino = load_encoders("pocket", ["dino"], "cpu", str(encoders_dir), str(tmp_path / "c")).dino
    for number, (name, noun) in enumerate((("dog", "dog"), ("dog2", "dog"), ("cat", "cat"))):
        run = write_run(root, name, 0.5, name, weights=dino.weights_hash)
        items = [Item("subject", f"{i}.png", f"a sks {noun}", f"a {noun}", i) for i in range(2)]
        items.append(Item("class", "class.png", f"a {noun}", f"a {noun}", 9))
        make_images(
            lambda prompts, seeds, n=number: [picture(10 * n + s) for s in seeds],
            items,
            run / "evaluation" / "quick",
            facts_of(run),
            2,
        )
        photos = [run / f"photo{i}.png" for i in range(2)]
        for i, path in enumerate(photos):
            picture(100 + 10 * number + i).save(path)
        record = json.loads((run / "run.json").read_text())
        record["subject"]["class_noun"] = noun
        (run / "run.json").write_text(json.dumps(record))
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["references"]["files"] = [str(path) for path in photos]
        (run / "metrics.json").write_text(json.dumps(metrics))
    return root, encoders_dir


def test_pres_over_other_subjects_is_that_of_a_plain_loop(three_dogs, tmp_path):
    root, encoders_dir = three_dogs
    report(str(root), True, "cpu", str(encoders_dir), str(tmp_path / "cache"))
    encoder = load_encoders("pocket", ["dino"], "cpu", str(encoders_dir), str(tmp_path / "c")).dino
    variant = f"pres.other_subjects.{encoder.variant}.allpairs.macro"
    by_subject = {row["subject.name"]: row for row in table(root / "runs.csv")}
    assert by_subject["cat"][variant] == ""
    for own, other in (("dog", "dog2"), ("dog2", "dog")):
        cosines = []
        for i in range(2):
            image = root / other / "evaluation" / "quick" / f"{i}.png"
            made = encoder.images([image])[0].double()
            for j in range(2):
                photo = encoder.images([root / own / f"photo{j}.png"])[0].double()
                cosines.append(float(torch.dot(made, photo)))
        assert float(by_subject[own][variant]) == pytest.approx(sum(cosines) / 4, abs=1e-6)


def test_other_weights_than_the_runs_were_scored_with_are_refused(three_dogs, tmp_path, capsys):
    root, encoders_dir = three_dogs
    for name in ("dog", "dog2"):
        path = root / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["encoders"]["dino"]["weights"] = "other"
        path.write_text(json.dumps(metrics))
    assert report(str(root), True, "cpu", str(encoders_dir), str(tmp_path / "cache")) == 0
    assert "other weights" in capsys.readouterr().out
    assert not any("other_subjects" in key for key in table(root / "runs.csv")[0])


def test_images_that_a_runs_scores_are_not_of_are_refused(three_dogs, tmp_path, capsys):
    root, encoders_dir = three_dogs
    items = [Item("subject", "0.png", "a sks dog", "a dog", 0)]
    make_images(
        lambda *_: [picture(0)],
        items,
        root / "dog2" / "evaluation" / "quick",
        {**facts_of(root / "dog2"), "steps": 3},
        1,
    )
    assert report(str(root), True, "cpu", str(encoders_dir), str(tmp_path / "cache")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not hold the images that the run's scores are of" in printed
    assert not any("other_subjects" in key for key in table(root / "runs.csv")[0])
