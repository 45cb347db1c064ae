"""What a run leaves of its model: kinds, dtypes, links to one copy, equal bytes if repeated."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreambooth.errors import UserError
from dreambooth.model.peft_layers import merge_adapters
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.study.finished.runs import Run
from dreambooth.training.exports.export import share
from dreambooth.training.resuming.checkpoint_records import record_path
from dreambooth.training.resuming.checkpoints import (
    checkpoint_name,
    left_over,
    remove_left_over,
)

SHORT = ("max_steps=1", "ppl=false")


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


@pytest.mark.slow
def test_a_finished_lora_run_is_repeated_byte_for_byte_and_keeps_its_scores(spine, tmp_path):
    more = (*SHORT, "method=lora", "train_text_encoder=true")
    out = spine.run(tmp_path / "run", *more)
    before = (out / "model/pytorch_lora_weights.safetensors").read_bytes()
    provenance = {"provenance": json.loads(_provenance(out))}
    scores = out / "evaluation/paper/metrics.json"
    scores.parent.mkdir(parents=True)
    scores.write_text(json.dumps(provenance))
    spine.run(out, *more, "samples.seeds=[1]")
    assert (out / "model/pytorch_lora_weights.safetensors").read_bytes() == before
    assert scores.exists() and not (out / "superseded").exists()


def _provenance(out: Path) -> str:
    shown = json.loads(Image.open(next((out / "samples/final").glob("*.png"))).info["dreambooth"])
    return json.dumps({"export": shown["hashes"]["export"]})


@pytest.mark.slow
def test_half_precision_is_what_a_run_draws_and_leaves(spine, tmp_path):
    out = spine.run(tmp_path / "run", *SHORT, "export.dtype=float16")
    weights = load_file(out / "model/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    model = Run.read(out).load_model()
    drawn = spine.spec(tmp_path / "x", *SHORT).samples.set
    again = drawn.draw(model, RunWeights(Run.read(out), None).describe(), tmp_path, "again")  # pyright: ignore
    (own,) = (out / "samples/final").glob("*.png")
    assert Image.open(own).tobytes() == again[0].tobytes()


@pytest.mark.slow
def test_parts_that_did_not_train_are_one_file_in_all_runs(spine, one_step, tmp_path):
    runs = [one_step, spine.run(tmp_path, *SHORT, "lr=2e-3")]
    for part, is_shared in (("vae", True), ("text_encoder", True), ("unet", False)):
        files = [next((run / "model" / part).glob("*.safetensors")) for run in runs]
        assert os.path.samefile(*files) == is_shared


def test_a_damaged_copy_is_not_shared(tmp_path):
    files = [tmp_path / "a" / "w.bin", tmp_path / "b" / "w.bin", tmp_path / "c" / "w.bin"]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"weights")
    assert share(files[0], tmp_path / "store") and share(files[1], tmp_path / "store")
    assert os.path.samefile(*files[:2])
    (kept,) = (tmp_path / "store").iterdir()
    kept.chmod(0o644)
    kept.write_bytes(b"weighty")
    assert share(files[2], tmp_path / "store")
    assert files[2].read_bytes() == b"weights" and not os.path.samefile(files[0], files[2])
    assert [f.name for f in files[2].parent.iterdir()] == ["w.bin"]


def test_a_process_that_dies_while_it_shares_leaves_its_mark(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(b"weights")
    names, replace = [], os.replace

    def seen(source, target):
        names.extend(f.name for f in (tmp_path / "store").iterdir())
        replace(source, target)

    monkeypatch.setattr(os, "replace", seen)
    assert share(tmp_path / "w.bin", tmp_path / "store")
    (name,) = names
    left = (
        tmp_path / "store" / re.sub(r"-\d+-(\d+-[^-]+)$", r"-999999999-\1", name)
    )  # of a dead one
    left.mkdir()
    assert share(tmp_path / "w.bin", tmp_path / "store") and not left.exists()


def test_where_there_are_no_links_the_file_stays(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "w.bin").write_bytes(b"weights")
    assert not share(tmp_path / "w.bin", tmp_path / "store")
    assert (tmp_path / "w.bin").read_bytes() == b"weights"


@pytest.mark.slow
def test_a_run_without_a_model_keeps_samples_and_says_so(spine, tmp_path):
    out = spine.run(tmp_path / "run", *SHORT, "export.kind=none")
    assert not (out / "model").exists() and (out / "samples/final.png").exists()
    with pytest.raises(UserError, match="export.kind=none"):
        Run.read(out).load_model()


@pytest.mark.slow
def test_adapters_are_merged_into_a_whole_pipeline(spine, tmp_path):
    out = spine.run(tmp_path / "run", *SHORT, "method=lora", "export.kind=full", "lr=1e-1")
    assert record(out)["export"] == "full"
    merged, base = Run.read(out).load_model(), Run.read(out).record["model"]["path"]
    before = load_file(Path(base) / "unet/diffusion_pytorch_model.safetensors")
    changed = {k for k, v in merged.base_state("unet").items() if not torch.equal(v, before[k])}
    assert changed and all("attn" in key for key in changed)


def test_a_lora_of_a_word_is_refused(spine, tmp_path):
    with pytest.raises(UserError, match="export.kind=lora needs a method"):
        spine.spec(tmp_path, "export.kind=lora", "method=textual_inversion")


@pytest.mark.slow
@pytest.mark.thorough
def test_whole_weights_are_left_as_the_nearest_lora(spine, tmp_path):
    more = (*SHORT, "export.kind=lora", "lr=1e-2", "export.verify=auto")
    runs = [spine.run(tmp_path / str(rank), *more, f"export.rank={rank}") for rank in (1, 64)]
    whole = Run.read(spine.run(tmp_path / "full", *SHORT, "lr=1e-2")).load_model()
    left = []
    for out, rank in zip(runs, (1, 64), strict=True):
        assert record(out)["export"] == "lora"
        assert record(out)["verified"]["diffusers"]["error"] is None
        state = load_file(out / "model/pytorch_lora_weights.safetensors")
        assert {x.shape[0] for name, x in state.items() if name.endswith("A.weight")} == {rank}
        model = Run.read(out).load_model()
        merge_adapters(model)
        key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        left.append((model.base_state("unet")[key] - whole.base_state("unet")[key]).norm().item())
    assert left[1] < 1e-4 < left[0]


@pytest.mark.slow
def test_checkpoints_are_pruned_when_a_run_has_finished(spine, tmp_path):
    more = ("max_steps=2", "ppl=false", "checkpoint.every_n_steps=1")
    out = spine.run(tmp_path / "run", *more, "checkpoint.keep_when_finished=0")
    assert {f.name for f in (out / "checkpoints/phase-0").iterdir()} == {"step-000002.ckpt.json"}
    sizes = sum(f.stat().st_size for f in out.rglob("*") if f.is_file() and f.name != "run.json")
    assert abs(record(out)["costs"]["bytes_written"] - sizes) < 20_000
    spine.run(out, "max_steps=3", *more[1:], "checkpoint.keep_when_finished=null")
    assert record(out)["costs"]["phase_0"]["steps"] == 3  # anew: nothing was left to go on from
    method = spine.spec(tmp_path / "x", *more).method
    assert RunWeights(Run.read(out), method).steps() == [0, 3]


def test_what_is_pruned(tmp_path):
    files = []
    for phase, steps in (("phase-0", (1, 2)), ("phase-1", (1, 2, 3))):
        for step in steps:
            path = tmp_path / "checkpoints" / phase / checkpoint_name(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            files += [path, record_path(path)]
    for file in files:
        file.touch()
    remove_left_over(left_over(tmp_path, 1))
    kept = [f"{p.parent.name}/{p.name}" for p in sorted(tmp_path.rglob("*.ckpt"))]
    assert kept == ["phase-0/step-000002.ckpt", "phase-1/step-000003.ckpt"]
    remove_left_over(left_over(tmp_path, 0))
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [
        "step-000002.ckpt.json",  # of which training each phase is
        "step-000003.ckpt.json",
    ]


@pytest.mark.parametrize(
    ("keep", "asked", "kept"), [(2, "null", 1), (1, "null", 1), (9, "null", 9), (9, 0, 0)]
)
def test_a_raised_keep_is_meant_for_the_finished_run_too(spine, tmp_path, keep, asked, kept):
    more = (f"checkpoint.keep={keep}", f"checkpoint.keep_when_finished={asked}")
    assert spine.spec(tmp_path, *more).checkpoint.kept_when_finished == kept
