"""Real photos against real photos, under every variant."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import load_encoder
from tiny_encoders import canonical_encoders


def features(encoder, images: list[Path]) -> list[torch.Tensor]:
    """Unit features, one image at a time."""
    rows = []
    for path in images:
        with torch.no_grad(), Image.open(path) as image:
            row = encoder.embed(encoder.preprocess(image.convert("RGB"))[None])[0].double()
        rows.append(row / row.norm())
    return rows


def test_calibration_is_real_against_real_under_every_available_variant(
    spine, evaluate, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    weights = canonical_encoders(tmp_path / "weights")
    root, photos = tmp_path / "photos", sorted(spine.photos.iterdir())
    for name, some in (("dog", photos[:2]), ("vase", photos)):
        (root / name).mkdir(parents=True)
        for path in some:
            shutil.copy(path, root / name)
    evaluate(
        "calibrate=true",
        f"photos.root='{root}'",
        f"output_dir='{tmp_path}'",
        f"evaluation.encoders_dir='{weights}'",
    )
    with open(tmp_path / "calibration.csv", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert {row["encoder"] for row in rows.values()} == {
        "dino_vits16",
        "dino_vits16_hf",
        "clip_b32",
    }
    assert len(rows) == 6
    encoder = load_encoder("clip_b32", encoders_dir=weights)
    per_subject = []
    for paths in (photos[:2], photos):
        real = features(encoder, paths)
        pairs = [float(a @ b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j]
        per_subject.append(sum(pairs) / len(pairs))
    row = rows["real_ref.clip_i.b32.allpairs.macro.exclude_self"]
    assert float(row["mean"]) == pytest.approx(sum(per_subject) / 2, abs=1e-6)
    assert float(row["difference"]) == pytest.approx(float(row["mean"]) - 0.885)
    printed = capsys.readouterr().out
    assert "0.774" in printed and "Left out: dino_vits8" in printed
    with pytest.raises(UserError, match="none of dino_vits16"):
        evaluate("calibrate=true", f"photos.root='{root}'", "evaluation.encoders_dir=null")
