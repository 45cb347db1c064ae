"""Scores of whole runs and folders: against plain loops, resumed, refused, beside training."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTModel

from dreambooth.errors import UserError
from dreambooth.evaluation import curve
from dreambooth.evaluation.networks import METRICS, Encoders, load_encoders
from spine import ROOT, checkpoint, same

pytestmark = pytest.mark.slow


@pytest.fixture
def networks(encoders_dir, tmp_path) -> Encoders:
    return load_encoders("pocket", METRICS, "cpu", str(encoders_dir), str(tmp_path / "cache"))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def record_of(run: Path, evaluation: str = "quick") -> dict:
    return json.loads((run / "evaluation" / evaluation / "metrics.json").read_text())


def features(encoder, images: list[Path]) -> list[list[float]]:
    """Unit features, one image at a time, as plain numbers."""
    rows = []
    for path in images:
        with torch.no_grad(), Image.open(path) as image:
            row = encoder.embed(encoder.preprocess(image.convert("RGB"))[None])[0].double()
        rows.append((row / row.norm()).tolist())
    return rows


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def average(values: list[float]) -> float:
    return sum(values) / len(values)


def test_every_mean_is_that_of_a_plain_loop(scored, spine, networks):
    folder = scored / "evaluation" / "quick"
    summary, scores = record_of(scored)["scores"], table(folder / "scores.csv")
    rows = table(folder / "manifest.csv")
    photos = sorted(spine.photos.iterdir())
    subject = [row for row in rows if row["set"] == "subject"]
    prior = [row for row in rows if row["set"] == "class"]
    assert (len(subject), len(prior), len({row["prompt"] for row in subject})) == (8, 3, 4)
    expected = {}
    for key, encoder in (("dino", networks.dino), ("clip_i", networks.clip)):
        real = features(encoder, photos)
        made = features(encoder, [folder / row["file"] for row in subject])
        variant = f"{key}.{encoder.variant.partition('.')[2]}.allpairs.macro"
        expected[variant] = average([dot(g, r) for g in made for r in real])
        apart = [dot(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j]
        expected[f"real_ref.{variant}.exclude_self"] = average(apart)
        together = [dot(a, b) for a in real for b in real]
        expected[f"real_ref.{variant}.include_self"] = average(together)
    dino = f"{networks.dino.variant}.allpairs.macro"
    of_class = features(networks.dino, [folder / row["file"] for row in prior])
    real = features(networks.dino, photos)
    expected[f"pres.class_prompt.{dino}"] = average([dot(g, r) for g in of_class for r in real])
    images = features(networks.clip, [folder / row["file"] for row in subject])
    for text, column in (("class_only", "class_only"), ("with_id", "prompt")):
        texts = [networks.clip.texts([row[column]])[0].double().tolist() for row in subject]
        pairs = [dot(i, t) for i, t in zip(images, texts, strict=True)]
        expected[f"clip_t.{networks.clip.variant.partition('.')[2]}.{text}.matched.cos"] = average(
            pairs
        )
    for name, group in (("div", subject), ("div_class", prior)):
        by_prompt = defaultdict(list)
        for row in group:
            by_prompt[row["prompt"]].append(folder / row["file"])
        means = []
        for paths in by_prompt.values():
            pairs = [(a, b) for i, a in enumerate(paths) for b in paths[i + 1 :]]
            distances = [networks.distance.distance(list(p))[0, 1].item() for p in pairs]
            means.append(average(distances))
        count = len(next(iter(by_prompt.values())))
        expected[f"{name}.{networks.distance.variant}.within_prompt.{count}"] = average(means)
    assert summary.keys() == expected.keys()
    for variant, value in expected.items():
        assert summary[variant]["mean"] == pytest.approx(value, abs=1e-6), variant
        column = [float(row[variant]) for row in scores if row[variant]]
        assert average(column) == pytest.approx(value, abs=1e-6), variant


def test_the_files_say_how_the_numbers_came_to_be(scored, spine):
    record = record_of(scored)
    assert record["references"]["what"] == "training photos" and record["references"]["count"] == 3
    assert record["encoders"]["dino"]["weights"] != record["encoders"]["clip"]["weights"]
    dino = record["scores"]["dino.pocket.sq32_bicubic.allpairs.macro"]
    assert (dino["images"], dino["prompts"], dino["references"]) == (8, 4, 3)
    assert dino["interval_95"][0] < dino["mean"] < dino["interval_95"][1]
    stages = json.loads((scored / "run.json").read_text())["costs"]["stages"]
    names = ["latents", "class_images", "class_latents"]
    names += ["training", "export", "samples", "evaluation", "verification"]
    assert list(stages) == names
    assert list(record["cost"]["stages"]) == names[:-1]  # exports are verified afterwards
    for name, stage in stages.items():
        assert stage["peak_memory_gib"] > 0 and stage["bytes"] > 0 or name == "verification"
    for name in ("training", "samples", "evaluation"):
        assert stages[name]["seconds"] > 0
    assert stages["export"]["bytes"] == sum(
        p.stat().st_size for p in (scored / "model").rglob("*") if p.is_file()
    )
    rows = table(scored / "evaluation" / "quick" / "manifest.csv")
    assert {int(row["seed"]) for row in rows if row["set"] == "subject"} == {0, 1}
    # apart from the class images that it trained on
    assert [int(r["seed"]) for r in rows if r["set"] == "class"] == [1000000, 1000001, 1000002]
    assert len({row["provenance"] for row in rows}) == 1


def test_a_finished_run_is_scored_again_without_making_its_images_again(scored, evaluate, tmp_path):
    run = shutil.copytree(scored, tmp_path / "run")
    before = record_of(run)
    folder = run / "evaluation" / "quick"
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert evaluate(f"run='{run}'") == 0
    again = record_of(run)
    assert (before["images_made"], again["images_made"]) == (11, 0)
    assert again["scores"] == before["scores"] and again["provenance"] == before["provenance"]
    # a damaged and a lost image are made again from the export, to the byte
    first, second, *_ = sorted(pictures)
    (folder / first).write_bytes(b"no image")
    (folder / second).unlink()
    evaluate(f"run='{run}'")
    assert record_of(run)["images_made"] == 2
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == pictures
    # another number of steps is another image
    evaluate(f"run='{run}'", "num_inference_steps=3", f"output_dir='{tmp_path / 'other'}'")
    other = record_of(tmp_path / "other")
    assert other["images_made"] == 11 and other["provenance"]["steps"] == 3


def test_scores_are_of_images_in_the_runs_inference_dtype(spine, encoders_dir, evaluate, tmp_path):
    run = spine.run(
        tmp_path / "run",
        "trainer.precision=bf16-mixed",
        "evaluation=quick",
        "evaluation.metrics=[dino]",
        "evaluation.class_images=3",
        f"evaluation.encoders_dir='{encoders_dir}'",
    )
    record = record_of(run)
    assert (record["provenance"]["dtype"], record["images_made"]) == ("bfloat16", 11)
    evaluate(f"run='{run}'", "evaluation.metrics=[dino]")
    again = record_of(run)
    assert again["images_made"] == 0 and again["provenance"] == record["provenance"]
    assert again["scores"] == record["scores"]


@pytest.mark.thorough
def test_curves_do_not_change_training(spine, encoders_dir, tmp_path):
    method = ("method=lora", "method.adapter.lora_dropout=0.2", "max_steps=3")
    plain = spine.run(tmp_path / "plain", *method)
    curved = spine.run(
        tmp_path / "curved",
        *method,
        "evaluation.every_n_steps=2",
        f"evaluation.encoders_dir='{encoders_dir}'",
        "evaluation.curve.class_images=1",
    )
    for key in ("state_dict", "optimizer_states"):
        assert same(checkpoint(plain)[key], checkpoint(curved)[key])
    rows = table(curved / "curve.csv")
    assert [float(row["step"]) for row in rows] == [0, 2, 3]  # the last step is scored too
    first, last = rows[0], rows[-1]
    metrics = {key.split(".")[0] for key in first}
    assert metrics == {"step", "dino", "clip_i", "clip_t", "pres", "harmonic_mean", "measured"}
    assert (
        first["dino.pocket.sq32_bicubic.allpairs.macro"]
        != (last["dino.pocket.sq32_bicubic.allpairs.macro"])
    )
    assert Image.open(curved / "curve.png").width > 300
    logged = [row for row in table(curved / "metrics.csv") if row["curve/harmonic_mean"]]
    assert [float(row["curve/harmonic_mean"]) for row in logged] == pytest.approx(
        [float(row["harmonic_mean"]) for row in rows]
    )


@pytest.mark.thorough
def test_the_best_step_is_what_is_exported(spine, encoders_dir, tmp_path, monkeypatch):
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    short = spine.run(tmp_path / "short", "max_steps=1")
    whole = spine.run(tmp_path / "whole", "max_steps=3")
    # the rule has its own tests; here the first trained step is to win
    monkeypatch.setattr(curve, "best_step", lambda points: min(points)[0])
    best = spine.run(
        tmp_path / "best",
        "max_steps=3",
        "evaluation.every_n_steps=1",
        "checkpoint.best=harmonic",
        "evaluation.curve.class_images=1",
        f"evaluation.encoders_dir='{encoders_dir}'",
    )
    assert json.loads((best / "run.json").read_text())["best_step"] == 1
    exported, expected = load_file(best / weights), load_file(short / weights)
    assert same(exported, expected) and not same(exported, load_file(whole / weights))
    assert (best / "checkpoints" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        (("checkpoint.best=harmonic",), "evaluation.every_n_steps"),
        (("checkpoint.best=max", "evaluation.every_n_steps=1"), "harmonic"),
        (("evaluation.every_n_steps=-1",), "0 or greater"),
        (("evaluation=quick", "evaluation.images_per_prompt=1"), "DIV"),
        (("evaluation=quick", "evaluation.metrics=[dino,fid]"), "fid"),
    ],
)
def test_what_no_evaluation_could_use_is_refused_before_training(spine, tmp_path, override, word):
    with pytest.raises(UserError, match=word):
        spine.run(tmp_path / "run", *override)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_is_not_lost_when_its_encoders_cannot_be_had(
    spine, tmp_path, caplog, monkeypatch, evaluate
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    out = spine.run(tmp_path / "run", "evaluation=quick", "evaluation.encoders=canonical")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"python evaluate.py run={out} evaluation" in warning and "\n" not in warning
    assert (out / "model" / "model_index.json").exists() and (out / "samples/final.png").exists()
    assert (out / "run.json").exists() and not list(out.glob("evaluation/*/metrics.json"))
    images, photos = out / "samples" / "final", spine.photos
    with pytest.raises(UserError, match="dino-vits16"):
        evaluate(f"images='{images}'", f"photos='{photos}'", "evaluation.encoders_dir=null")


def test_a_folder_without_prompts_has_dino_and_clip_i(scored, spine, evaluate, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (scored / "evaluation" / "quick").glob("00_*.png"):
        shutil.copy(path, images)
    assert (
        evaluate(
            f"images='{images}'",
            f"photos='{spine.photos}'",
            "evaluation.encoders=pocket",
            f"output_dir='{tmp_path / 'out'}'",
        )
        == 0
    )
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"]
    plain = {entry["metric"] for entry in scores.values()}
    assert plain == {"DINO", "CLIP-I", "DINO, real images", "CLIP-I, real images"}
    variant = "clip_i.pocket.sq32_bicubic.allpairs.macro"
    of_run = [float(r[variant]) for r in table(scored / "evaluation/quick/scores.csv")[:2]]
    assert scores[variant]["mean"] == pytest.approx(average(of_run))
    assert "manifest.csv" in capsys.readouterr().out


def test_a_folder_with_a_manifest_has_every_metric(scored, spine, evaluate, tmp_path):
    images = scored / "evaluation" / "quick"
    evaluate(
        f"images='{images}'",
        f"photos='{spine.photos}'",
        "evaluation.encoders=pocket",
        f"output_dir='{tmp_path}'",
    )
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["scores"]
        == (record_of(scored)["scores"])
    )


@pytest.fixture
def folder(scored, tmp_path) -> Path:
    """A copy of scored images that a test may spoil."""
    copy = Path(shutil.copytree(scored / "evaluation" / "quick", tmp_path / "images"))
    (copy / "metrics.json").unlink()
    return copy


def rewrite(folder: Path, change) -> None:
    rows = [row for row in map(change, table(folder / "manifest.csv")) if row]
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["file"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda row: None, "names no images"),
        (lambda row: {**row, "file": "gone.png"}, "gone.png"),
        (lambda row: {k: v for k, v in row.items() if k != "class_only"}, "class_only"),
        (lambda row: {**row, "set": "class"}, "no image of the subject"),
        (lambda row: row if row["seed"] == "0" else None, "DIV needs at least two"),
        (lambda row: {**row, "prompt": "a {} dog"}, "brace"),
    ],
)
def test_a_manifest_that_cannot_be_scored_is_one_sentence(folder, spine, evaluate, change, word):
    rewrite(folder, change)
    with pytest.raises(UserError, match=word) as caught:
        evaluate(f"images='{folder}'", f"photos='{spine.photos}'", "evaluation.encoders=pocket")
    assert "\n" not in str(caught.value)


def test_other_wrong_inputs_are_one_sentence(scored, spine, evaluate, tmp_path, encoders_dir):
    (tmp_path / "empty").mkdir()
    photos = f"photos='{spine.photos}'"
    broken = shutil.copytree(encoders_dir, tmp_path / "nan")
    model = ViTModel.from_pretrained(broken / "dino", add_pooling_layer=False)
    model.layernorm.bias.data[0] = float("nan")
    model.save_pretrained(broken / "dino")
    for arguments, word in (
        ((), "Say what to score"),
        ((f"run='{scored}'", f"images='{scored}'"), "one of them"),
        ((f"images='{tmp_path / 'empty'}'", photos), "holds no photos"),
        ((f"images='{scored}/samples/final'",), "photos=DIR"),
        ((f"run='{tmp_path / 'empty'}'",), "not a finished run"),
        ((f"run='{scored}'", "evaluation=none"), "scores nothing"),
        ((f"run='{scored}'", f"evaluation.encoders_dir='{broken}'"), "NaN"),
        ((f"images='{spine.photos}'", photos, "evaluation.metrics=[clip_t]"), "manifest.csv"),
        (("calibrate=true", f"photos.root='{tmp_path / 'none'}'"), "not a folder"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            evaluate(*arguments)
        assert "\n" not in str(caught.value)


def test_a_mistake_at_the_command_line_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # restored after what the command sets
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"run={tmp_path}", *quiet])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
    printed = capfd.readouterr().err
    assert stop.value.code == 2 and "not a finished run" in printed
    assert printed.strip().count("\n") == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_costs_of_a_run_add_up_over_its_sessions(spine, tmp_path):
    out = spine.run(tmp_path / "run")
    first = json.loads((out / "run.json").read_text())["costs"]
    spine.run(out)
    again = json.loads((out / "run.json").read_text())["costs"]
    training = [costs["stages"]["training"] for costs in (first, again)]
    assert training[1]["seconds"] >= training[0]["seconds"] > 0
    assert training[1]["bytes"] == training[0]["bytes"] > 0
    assert again["seconds"] > first["seconds"]
    assert sum(stage["seconds"] for stage in again["stages"].values()) <= again["seconds"]
