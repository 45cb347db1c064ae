"""The whole job on a tiny model: what it leaves, what it repeats, what it frees."""

from __future__ import annotations

import csv
import gc
import json
import sys
import weakref
from dataclasses import replace

import bitsandbytes  # noqa: F401  it warns once, and pytest keeps the frames of its warning
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.sampling.samples import SampleSet
from dreambooth.training import job
from spine import CONSTANT, checkpoint, copy_checkpoint, left_behind, same

pytestmark = pytest.mark.slow


def test_what_a_run_leaves(spine, four_steps):
    assert {p.name for p in four_steps.iterdir()} >= {
        "model",
        "samples",
        "checkpoints",
        "run.json",
        "metrics.csv",
    }
    pipeline = StableDiffusionPipeline.from_pretrained(four_steps / "model")
    saved = {k.removeprefix("unet."): v for k, v in checkpoint(four_steps)["state_dict"].items()}
    assert same(dict(sorted(pipeline.unet.state_dict().items())), saved)
    record = json.loads((four_steps / "run.json").read_text())
    costs = record["costs"]
    assert costs["phase_0"]["steps"] == 4 and costs["phase_0"]["stopped"] is None
    assert costs["phase_0"]["trained_parameters"] == sum(v.numel() for v in saved.values())
    assert costs["bytes_written"] > 0 and costs["peak_memory_gib"] > 0
    with open(four_steps / "metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    parts = [float(row[f"loss/{name}"]) for name in ("instance", "prior", "total")]
    assert parts[0] > 0 and parts[1] > 0
    assert parts[2] == pytest.approx(parts[0] + parts[1], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("spine", ("ema_decay=0.5", "frozen_dtype=bfloat16")),
        pytest.param(
            "flux2_spine",
            ("method=lora", "prior.kind=prediction", "model.quantize=4bit"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_networks_that_wait_change_nothing(name, more, request, tmp_path):
    """A CPU stands for the GPU: what waits is out of the trainer's reach, and in place to draw."""
    spine = request.getfixturevalue(name)
    options = (*more, "samples.every_n_steps=1", "max_steps=2")
    expected = spine.run(tmp_path / "all there/run", *options)
    spec = spine.spec(tmp_path / "waiting/run", *options)
    hardware = replace(spec.hardware, offload=True)
    spec.folder.mkdir(parents=True)
    assert job.run(replace(spec, hardware=hardware)).code == 0
    # moved weights are copies at other addresses, where a CPU's kernels round otherwise
    files = [p.relative_to(expected) for p in (expected / "model").rglob("*.safetensors")]
    for file in files:
        before, after = (load_file(folder / file) for folder in (expected, spec.folder))
        for tensor, value in before.items():
            torch.testing.assert_close(after[tensor], value, rtol=0, atol=1e-6)
    drawn = sorted((expected / "samples").rglob("*.png"))
    assert files and len(drawn) >= 6  # three steps, each with its sheet
    for path in drawn:
        pair = (path, spec.folder / path.relative_to(expected))
        before, after = (np.asarray(Image.open(each)).astype(int) for each in pair)
        assert abs(before - after).max() <= 1


def test_a_finished_run_is_not_trained_again(spine, four_steps, tmp_path, monkeypatch):
    out = tmp_path / "run"
    copy_checkpoint(four_steps, out, "checkpoints/phase-0/step-000004.ckpt")
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    places = (spine.cache / "latents/0.safetensors", spine.cache / "trained/0/step-000004.ckpt")
    left = [left_behind(place) for place in (*places, out / "run.json")]  # by killed runs
    spine.run(out, *CONSTANT)
    assert not any(place.exists() for place in left)
    before, after = (
        StableDiffusion.from_pretrained(str(run / "model")) for run in (four_steps, out)
    )
    assert same(before.base_state("unet"), after.base_state("unet"))


def test_another_seed_is_another_training(spine, four_steps, tmp_path):
    """That seed 0 gives the same weights twice is held where sampling changes no weight."""
    other = spine.run(tmp_path, *CONSTANT, "seed=1")
    assert not same(checkpoint(other)["state_dict"], checkpoint(four_steps)["state_dict"])


@pytest.fixture
def alive(monkeypatch):
    """`alive()`: what is left in memory of the models and Trainers of runs, without Python's own
    garbage collection."""
    made: list[weakref.ref] = []
    load, fit = StableDiffusion.from_pretrained, pl.Trainer.fit

    def watched_load(*args, **kwargs):
        model = load(*args, **kwargs)
        made.extend(map(weakref.ref, (model, model.unet, model.text_encoder)))
        return model

    def watched_fit(self, *args, **kwargs):
        made.append(weakref.ref(self))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(StableDiffusion, "from_pretrained", watched_load)
    monkeypatch.setattr(pl.Trainer, "fit", watched_fit)
    gc.disable()
    yield lambda: [type(ref()).__name__ for ref in made if ref() is not None]
    gc.enable()


@pytest.mark.thorough
def test_nothing_of_a_run_stays_in_memory(spine, encoders_dir, tmp_path, alive, monkeypatch):
    looked_at = ("samples.every_n_steps=1", "evaluation.every_n_steps=1")
    looked_at += (f"evaluation.encoders_dir='{encoders_dir}'", "evaluation.encoders=pocket")
    at_the_end, draw = [], SampleSet.draw

    def watched(self, model, weights, folder, name, *photos):
        if name == "final":
            at_the_end.append(alive())
        return draw(self, model, weights, folder, name, *photos)

    monkeypatch.setattr(SampleSet, "draw", watched)
    for number, method in enumerate(
        (
            ("ema_decay=0.9", *looked_at),
            ("method=pivotal_tuning", "method.token_max_steps=1", "train_text_encoder=true"),
        )
    ):
        spine.run(tmp_path / str(number), "ppl=false", "max_steps=1", *method)
        assert alive() == []
    # the Trainers, with the optimizers' state, are gone before anything follows training
    assert [set(names) for names in at_the_end] == [
        {"StableDiffusion", "UNet2DConditionModel", "CLIPTextModel"}
    ] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can reset a process's peak")
@pytest.mark.skipif(torch.cuda.is_available(), reason="of the process, not of a GPU")
@pytest.mark.thorough
def test_a_runs_peak_is_its_own(spine, tmp_path):
    def peak(name: str) -> float:
        run = spine.run(tmp_path / name, "ppl=false", "max_steps=1")
        return json.loads((run / "run.json").read_text())["costs"]["peak_memory_gib"]

    first = peak("first")
    torch.ones(512 * 2**20, dtype=torch.uint8)  # an earlier job of this process
    assert peak("second") == pytest.approx(first, abs=0.1)
