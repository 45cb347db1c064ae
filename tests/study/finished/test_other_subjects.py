"""PRES over other subjects: against a plain loop, and refused where it would be of other images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth.evaluation.networks import load_encoders
from dreambooth.sampling.manifest import Item
from dreambooth.sampling.store import ImageStore
from dreambooth.study.tables import ReportSpec, report
from run_records import read_metrics, write_metrics, write_run
from tiny_encoders import pocket_encoders


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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
        ImageStore(run / "evaluation" / "quick", read_metrics(run)["provenance"]).fill(
            lambda prompts, seeds, n=number: [picture(10 * n + s) for s in seeds], items, 2
        )
        photos = [run / f"photo{i}.png" for i in range(2)]
        for i, path in enumerate(photos):
            picture(100 + 10 * number + i).save(path)
        record = json.loads((run / "run.json").read_text())
        record["subject"]["class_noun"] = noun
        (run / "run.json").write_text(json.dumps(record))
        metrics = read_metrics(run)
        metrics["references"]["files"] = [str(path) for path in photos]
        write_metrics(run, metrics)
    return root, encoders_dir


def test_pres_over_other_subjects_is_that_of_a_plain_loop(three_dogs, tmp_path):
    root, encoders_dir = three_dogs
    report(ReportSpec(root, None, True, "cpu", str(encoders_dir), str(tmp_path / "cache"), False))
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
        metrics = read_metrics(root / name)
        metrics["encoders"]["dino"]["weights"] = "other"
        write_metrics(root / name, metrics)
    spec = ReportSpec(root, None, True, "cpu", str(encoders_dir), str(tmp_path / "cache"), False)
    assert report(spec) == 0
    assert "other weights" in capsys.readouterr().out
    assert not any("other_subjects" in key for key in table(root / "runs.csv")[0])


def test_images_that_a_runs_scores_are_not_of_are_refused(three_dogs, tmp_path, capsys):
    root, encoders_dir = three_dogs
    items = [Item("subject", "0.png", "a sks dog", "a dog", 0)]
    facts = {**read_metrics(root / "dog2")["provenance"], "steps": 3}
    ImageStore(root / "dog2" / "evaluation" / "quick", facts).fill(
        lambda *_: [picture(0)], items, 1
    )
    spec = ReportSpec(root, None, True, "cpu", str(encoders_dir), str(tmp_path / "cache"), False)
    assert report(spec) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not hold the images that the run's scores are of" in printed
    assert not any("other_subjects" in key for key in table(root / "runs.csv")[0])
