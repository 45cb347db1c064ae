"""evaluate.py on a run: which images it draws, where scores go, references and costs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreambooth.errors import UserError
from dreambooth.locks import held
from dreambooth.metrics.variants import dino_id
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.peft_layers import add_adapter
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.records import read_record, write_record
from dreambooth.study.finished.runs import Run
from dreambooth.study.tables import ReportSpec, report

pytestmark = pytest.mark.slow


def record(folder: Path, evaluation: str = "quick") -> dict:
    return read_record(folder / "evaluation" / evaluation / "metrics.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def run(scored, tmp_path) -> Path:
    """A copy of a scored run that a test may spoil."""
    return shutil.copytree(scored, tmp_path / "run")


def test_scores_elsewhere_leave_a_runs_own_images(run, evaluate, tmp_path):
    before, other = contents(run / "evaluation" / "quick"), tmp_path / "other"
    evaluate(f"run='{run}'", "num_inference_steps=3", f"output_dir='{other}'")
    assert contents(run / "evaluation" / "quick") == before
    assert record(other)["provenance"]["steps"] == 3
    assert {p.name for p in (other / "evaluation" / "quick").iterdir()} == set(before)
    evaluate(f"run='{run}'", "num_inference_steps=3", f"output_dir='{other}'")
    assert record(other)["images_made"] == 0  # so going back and forth costs nothing


def test_a_run_at_work_in_the_folder_is_not_scored_meanwhile(run, evaluate):
    with held(run), pytest.raises(UserError, match="run is in use: process .* pass output_dir=DIR"):
        evaluate(f"run='{run}'")


def test_another_evaluation_stands_beside_the_runs_own(run, evaluate, tmp_path):
    before = contents(run / "evaluation" / "quick")
    evaluate(f"run='{run}'", "evaluation=cornell")
    assert contents(run / "evaluation" / "quick") == before
    quick, cornell = record(run), record(run, "cornell")
    assert (quick["evaluation"], quick["images"]) == ("quick", 8 + 3)
    assert (cornell["evaluation"], cornell["images_made"]) == ("cornell", 16 + 3)
    assert len(list((run / "evaluation" / "cornell").glob("*.png"))) == 19
    assert not (run / "metrics.json").exists() and not (run / "scores.csv").exists()
    assert Run.read(run).metrics() == quick and Run.read(run).metrics("cornell") == cornell
    variant = dino_id(quick["encoders"]["dino"]["variant"])
    for name, shown, scores in ((None, "quick", quick), ("cornell", "cornell", cornell)):
        report(ReportSpec(run, name, False, "cpu", None, str(tmp_path / "cache"), False))
        with open(run / "runs.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["evaluation"] == shown
        assert float(row[variant]) == scores["scores"][variant]["mean"]
    assert quick["scores"][variant]["mean"] != cornell["scores"][variant]["mean"]
    evaluate(f"run='{run}'", "evaluation=cornell")
    assert record(run, "cornell")["images_made"] == 0


def test_an_evaluation_is_added_to_the_runs_cost(run, evaluate, tmp_path):
    costs = json.loads((run / "run.json").read_text())["costs"]
    evaluate(f"run='{run}'", f"output_dir='{tmp_path / 'other'}'")
    cost = record(tmp_path / "other")["cost"]
    assert cost["seconds"] > costs["seconds"]
    assert cost["stages"]["training"] == costs["stages"]["training"]
    assert cost["stages"]["evaluation"]["seconds"] > costs["stages"]["evaluation"]["seconds"]
    assert sum(stage["seconds"] for stage in cost["stages"].values()) <= cost["seconds"]


@pytest.mark.thorough
def test_references_say_how_many_of_them_were_trained_on(
    run, scored, spine, evaluate, tmp_path, capsys
):
    trained, fresh = sorted(spine.photos.iterdir()), run / "evaluation/quick"
    fresh = sorted(fresh.glob("*.png"))[0]  # any other picture
    for name, photos, what, count in (
        ("same", trained, "training photos", "3 of 3"),
        ("fewer", trained[:2], "some training photos", "2 of 2"),
        ("more", [*trained, fresh], "training and other photos", "3 of 4"),
        ("none", [fresh], "other photos", "0 of 1"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for path in photos:
            shutil.copy(path, folder)
        arguments = (f"photos='{folder}'", "evaluation.metrics=[dino]", "evaluation.class_images=0")
        evaluate(f"run='{run}'", *arguments)
        references = record(run)["references"]
        # the kind alone, without the folder: it is compared between subjects
        assert (references["what"], references["count"]) == (what, len(photos))
        assert f"{count} are training photos" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_and_a_sampler_that_are_not_there_are_one_sentence(
    scored, spine, evaluate, tmp_path
):
    images = f"images='{scored / 'evaluation' / 'quick'}'", f"photos='{spine.photos}'"
    images += (f"output_dir='{tmp_path}'",)
    for arguments, word in (
        ((*images, "evaluation.encoders=pocket", "device=cuda"), "device=cuda needs a GPU"),
        ((f"run='{scored}'", "scheduler=ddim", "num_inference_steps=2000"), "2000"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            evaluate(*arguments)
        assert "\n" not in str(caught.value)


def test_a_picture_is_not_compared_with_itself(scored, spine, evaluate, tmp_path):
    images = Path(shutil.copytree(scored / "evaluation" / "quick", tmp_path / "images"))
    (images / "metrics.json").unlink()
    shutil.copy(spine.photos / "1.png", next(images.glob("00_*.png")))
    (images / "manifest.csv").unlink()
    with pytest.raises(UserError, match="the same file as the photo") as caught:
        evaluate(f"images='{images}'", f"photos='{spine.photos}'", "evaluation.encoders=pocket")
    assert "1.png" in str(caught.value) and not (images / "metrics.json").exists()


def test_a_runs_own_scores_are_not_overwritten_by_those_of_its_folder(run, spine, evaluate):
    images, before = run / "evaluation" / "quick", contents(run / "evaluation" / "quick")
    arguments = (f"images='{images}'", f"photos='{spine.photos}'", "evaluation.encoders=pocket")
    with pytest.raises(UserError, match="quick holds the scores of a run's own .* output_dir=DIR"):
        evaluate(*arguments)
    assert contents(images) == before
    (images / "metrics.json").unlink()
    for _ in range(2):  # scores of a folder may be replaced
        evaluate(*arguments)
    assert json.loads((images / "metrics.json").read_text())["evaluation"] == "folder"


def test_scores_and_a_curve_of_an_earlier_model_do_not_stay(run, spine):
    own, other = run / "evaluation" / "quick", run / "evaluation" / "paper"
    other.mkdir()
    files = [run / "curve.csv", run / "curve.png", other / "metrics.json", other / "scores.csv"]
    for path in files:
        path.write_text("of the first session")
    files += [own / "metrics.json", own / "scores.csv"]
    spine.run(run, "evaluation=none")  # nothing is trained, so all of it is still true
    assert all(path.exists() for path in files)
    spine.run(run, "evaluation=none", "max_steps=3")
    assert not any(path.exists() for path in files)
    assert (run / "run.json").exists()


def test_what_is_drawn_is_recorded_alike_for_every_subject(scored):
    made = record(scored)
    assert made["protocol"] | {"templates": ""} == {
        "prompts": "quick",
        "images_per_prompt": 2,
        "class_images": 3,
        "class_seed": 1000000,
        "other_classes": [],
        "templates": "",
    }
    assert len(made["protocol"]["templates"]) == 16
    assert len(made["encoders"]["lpips"]["weights"]) == 16


def test_a_record_is_data_and_reads_no_environment(run, evaluate, monkeypatch):
    monkeypatch.setenv("SECRET", "the-password")
    path = run / "run.json"
    record = read_record(path)
    record["config"]["evaluation"]["encoders"] = "${oc.env:SECRET}"
    write_record(path, record)
    with pytest.raises(UserError) as refused:
        evaluate(f"run='{run}'", "evaluation=quick", "evaluation.encoders=null")
    assert "the-password" not in str(refused.value)
    record["sampling"]["extra"] = 1
    write_record(path, record)
    with pytest.raises(UserError, match="run.json is damaged .*extra"):
        evaluate(f"run='{run}'", "evaluation=quick", "evaluation.encoders=pocket")


def test_a_base_model_is_scored_with_what_others_made(
    scored, spine, evaluate, tmp_path, monkeypatch
):
    """Beside a run's own scores, and without any run."""
    save_file({"<x>": torch.ones(32)}, tmp_path / "x.safetensors")
    added = f"embeddings=['{tmp_path / 'x.safetensors'}']"
    theirs, options = (
        StableDiffusion.from_pretrained(str(spine.model)),
        {"target_modules": ["to_q"]},
    )
    add_adapter(theirs, "unet", AdapterSettings("peft.LoHaConfig", options), seed=0)
    save_peft(theirs, tmp_path / "theirs")
    model = ("model=pocket", f"model.path='{spine.model}'", "model.resolution=16")
    subject = ("subject=folder", "subject.class_noun=dog", f"subject.photos='{spine.photos}'")
    few = ("num_inference_steps=1", "evaluation.images_per_prompt=1", "evaluation.metrics=[dino]")
    monkeypatch.chdir(tmp_path)
    both = (added, f"adapters=['{tmp_path / 'theirs'}:0.5']")
    assert evaluate(*model, *subject, *few, *both) == 0
    (place,) = (tmp_path / "outputs/evaluated/pocket/with").iterdir()
    found = record(place)
    assert found["references"]["count"] == 3 and found["subject"]["phrase"] == "<x>"
    (entry,) = found["provenance"]["embeddings"]
    assert entry["token"] == "<x>" and len(entry["sha256"]) == 64
    (adapter,) = found["provenance"]["adapters"]
    assert adapter["weight"] == 0.5 and len(adapter["sha256"]) == 16
    with pytest.raises(UserError, match="scores need the subject's class"):
        evaluate(*model, *few, added)
    own = contents(scored / "evaluation/quick")
    output = f"output_dir='{tmp_path / 'run'}'"
    assert evaluate(f"run='{scored}'", *few, added, output) == 0
    assert contents(scored / "evaluation/quick") == own
    assert record(tmp_path / "run")["provenance"]["embeddings"] == [entry]
