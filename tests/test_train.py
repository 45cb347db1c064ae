"""The main job end to end on a tiny model, its resuming and its independence of sampling."""

from __future__ import annotations

import csv
import json
import logging
import signal
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from dreambooth.training.callbacks import StopAtStepBoundary

from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.study.runs import load_model, load_run
from spine import Spine, checkpoint, same

pytestmark = pytest.mark.slow

METHODS = {
    "full": ("train_text_encoder=true", "accumulate=2"),
    "8bit": ("optimizer=adamw_8bit", "ppl=false"),
    "lora": ("method=lora", "train_text_encoder=true", "accumulate=2", "method.lora.dropout=0.2"),
    "textual_inversion": ("method=textual_inversion", "ema_decay=0.5"),
    "ti_then_full": ("method=ti_then_full", "model.recommended.textual_inversion.max_steps=2"),
}
CONSTANT = ("max_steps=4", "checkpoint.every_n_steps=100", "checkpoint.keep=2")


@pytest.fixture(scope="session")
def four_steps(spine: Spine, tmp_path_factory) -> Path:
    """Four uninterrupted steps at a constant learning rate, saved after two and four."""
    out = tmp_path_factory.mktemp("four") / "run"
    return spine.run(out, *CONSTANT, "checkpoint.every_n_steps=2")


def copy_checkpoint(source: Path, target: Path, name: str) -> Path:
    """A checkpoint and its record, alone in another run's folder."""
    for suffix in ("", ".json"):
        file = target / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((source / f"{name}{suffix}").read_bytes())
    return target / name


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_after_two_steps_equals_four_in_one_go(spine, tmp_path, method):
    schedule = ("lr_schedule=cosine", "lr_warmup_steps=1", "max_steps=4", *METHODS[method])
    whole = spine.run(tmp_path / "whole", *schedule, "checkpoint.every_n_steps=2")
    phase, parts = int(method == "ti_then_full"), tmp_path / "parts"
    copy_checkpoint(whole, parts, f"checkpoints/phase-{phase}/step-000002.ckpt")
    if phase:
        copy_checkpoint(whole, parts, "checkpoints/phase-0/step-000002.ckpt")
    spine.run(parts, *schedule, "checkpoint.every_n_steps=100")
    a, b = checkpoint(whole, phase), checkpoint(parts, phase)
    assert a["global_step"] == b["global_step"] == 4
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        if key == "callbacks":
            a[key], b[key] = (x[key].get("ExponentialAverage") for x in (a, b))
        assert same(a[key], b[key]), key


def test_two_steps_continue_to_four_at_a_constant_rate(spine, four_steps, tmp_path):
    spine.run(tmp_path, *CONSTANT, "max_steps=2")
    assert checkpoint(tmp_path)["global_step"] == 2
    spine.run(tmp_path, *CONSTANT)
    assert same(checkpoint(tmp_path)["state_dict"], checkpoint(four_steps)["state_dict"])
    with open(tmp_path / "metrics.csv") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))


def test_resume_takes_a_path_and_null_starts_anew(spine, four_steps, tmp_path):
    path = four_steps / "checkpoints/phase-0/step-000002.ckpt"
    resumed = spine.run(tmp_path / "a", *CONSTANT, f"resume='{path}'")
    assert same(checkpoint(resumed)["state_dict"], checkpoint(four_steps)["state_dict"])
    assert json.loads((resumed / "run.json").read_text())["costs"]["phase_0"]["steps"] == 2

    anew = tmp_path / "b"
    copy_checkpoint(four_steps, anew, "checkpoints/phase-0/step-000004.ckpt")
    spine.run(anew, *CONSTANT, "max_steps=2", "lr=1e-2", "resume=null")
    assert [p.name for p in sorted((anew / "checkpoints/phase-0").glob("*.ckpt"))] == [
        "step-000002.ckpt"
    ]
    assert json.loads((anew / "run.json").read_text())["costs"]["phase_0"]["steps"] == 2


def test_a_finished_run_is_not_trained_again(spine, four_steps, tmp_path, monkeypatch):
    out = tmp_path / "run"
    copy_checkpoint(four_steps, out, "checkpoints/phase-0/step-000004.ckpt")
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    spine.run(out, *CONSTANT)
    before, after = (
        LatentDiffusion.from_pretrained(str(run / "model")) for run in (four_steps, out)
    )
    assert same(before.base_state("unet"), after.base_state("unet"))


def test_sampling_changes_no_weight(spine, four_steps, tmp_path):
    often = spine.run(tmp_path, *CONSTANT, "samples.every_n_steps=1", "scheduler=euler_a")
    assert same(checkpoint(often)["state_dict"], checkpoint(four_steps)["state_dict"])
    names = {p.name for p in (often / "samples").glob("*.png")}
    assert names == {f"step-{i:06d}.png" for i in range(5)} | {"final.png"}


def test_seed_zero_is_a_seed(spine, four_steps, tmp_path):
    again, other = (spine.run(tmp_path / str(seed), *CONSTANT, f"seed={seed}") for seed in (0, 1))
    before = checkpoint(four_steps)["state_dict"]
    assert same(checkpoint(again)["state_dict"], before)
    assert not same(checkpoint(other)["state_dict"], before)


def test_what_a_run_leaves(spine, four_steps):
    assert {p.name for p in four_steps.iterdir()} >= {
        "model",
        "samples",
        "checkpoints",
        "run.json",
        "metrics.csv",
        "logs",
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


def test_without_preservation_there_are_no_class_images(spine, tmp_path):
    out = spine.run(tmp_path / "run", "ppl=false", f"cache_dir='{tmp_path / 'cache'}'")
    assert not (tmp_path / "cache" / "class_images").exists()
    with open(out / "metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["loss/prior"]) == 0
    assert float(row["loss/total"]) == float(row["loss/instance"])


def test_steps_are_optimizer_updates(spine, tmp_path):
    out = spine.run(tmp_path, "max_steps=3", "accumulate=2")
    steps = {int(s["step"]) for s in checkpoint(out)["optimizer_states"][0]["state"].values()}
    assert steps == {3}


def test_a_step_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    spine, tmp_path, monkeypatch
):
    from dreambooth.training.module import DreamBooth

    errors = DreamBooth.errors

    def poisoned(self, batch):
        error = errors(self, batch)
        return error * torch.nan if self.global_step == 2 else error

    monkeypatch.setattr(DreamBooth, "errors", poisoned)
    with pytest.raises(UserError, match=r"loss became nan at step 3 on .*\d\.png.*precision"):
        spine.run(tmp_path, "max_steps=4", "checkpoint.every_n_steps=1")
    assert checkpoint(tmp_path)["global_step"] == 2


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(spine, tmp_path, monkeypatch):
    from dreambooth.training.module import DreamBooth

    clip = DreamBooth.configure_gradient_clipping

    def poisoned(self, optimizer, *args, **kwargs):
        if self.global_step == 1:
            optimizer.param_groups[0]["params"][0].grad[0] = torch.inf
        clip(self, optimizer, *args, **kwargs)

    monkeypatch.setattr(DreamBooth, "configure_gradient_clipping", poisoned)
    with pytest.raises(UserError, match="not finite after step 2"):
        spine.run(tmp_path, "max_steps=4", "checkpoint.every_n_steps=1")
    assert checkpoint(tmp_path)["global_step"] == 1


def test_stopping_ends_at_a_whole_step_and_the_same_command_goes_on(
    spine, four_steps, tmp_path, monkeypatch
):
    from dreambooth.training.job import run

    start = StopAtStepBoundary.on_train_start

    def interrupted(self, *args):
        start(self, *args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StopAtStepBoundary, "on_train_start", interrupted)
        assert run(spine.compose(tmp_path, *CONSTANT)) == 130
    assert checkpoint(tmp_path)["global_step"] == 1
    assert not (tmp_path / "model").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    spine.run(tmp_path, *CONSTANT)
    assert same(checkpoint(tmp_path)["state_dict"], checkpoint(four_steps)["state_dict"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_samples_before_the_first_step_waits_for_it(
    spine, tmp_path, monkeypatch, number
):
    from dreambooth.training.stages import Samples

    from dreambooth.training.job import run

    monkeypatch.setattr(Samples, "during", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert run(spine.compose(tmp_path, *CONSTANT, "samples.every_n_steps=4")) == 128 + number
    assert checkpoint(tmp_path)["global_step"] == 1 and signal.getsignal(number) is before


def test_ctrl_c_while_lightning_sets_up_is_a_ctrl_c(spine, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pytorch_lightning.Trainer._run", lambda *_, **__: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        spine.run(tmp_path, *CONSTANT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_record_is_of_the_exported_model_even_where_sampling_breaks_off(
    spine, tmp_path, monkeypatch
):
    out = spine.run(tmp_path, "max_steps=1", "ppl=false")
    monkeypatch.setattr(
        "dreambooth.training.stages.Samples.draw", lambda *_: signal.raise_signal(2)
    )
    with pytest.raises(KeyboardInterrupt):
        spine.run(out, "max_steps=2", "ppl=false", "scheduler=pndm")
    run = load_run(out)
    exported = load_model(run).base_state("unet")
    trained = checkpoint(out)
    assert trained["global_step"] == 2 == run.config["max_steps"]
    assert run.sampler.name == "PNDMScheduler"
    assert all(
        torch.equal(exported[k.removeprefix("unet.")], v) for k, v in trained["state_dict"].items()
    )


def test_a_finished_run_with_ema_exports_the_average(spine, tmp_path, monkeypatch):
    ema = ("max_steps=2", "ema_decay=0.5")
    first = spine.run(tmp_path, *ema)
    exported = LatentDiffusion.from_pretrained(str(first / "model")).base_state("unet")
    last = checkpoint(first)
    average = last["callbacks"]["ExponentialAverage"]["average"]
    assert all(torch.equal(exported[k.removeprefix("unet.")], v) for k, v in average.items())
    assert not same(average, last["state_dict"])
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    spine.run(tmp_path, *ema)
    again = LatentDiffusion.from_pretrained(str(first / "model")).base_state("unet")
    assert same(exported, again)


def test_another_configurations_checkpoint_is_refused_by_key(spine, four_steps, tmp_path):
    path = four_steps / "checkpoints/phase-0/step-000002.ckpt"
    with pytest.raises(UserError, match=r"lr \(was 0.001, is 0.01\), seed \(was 0, is 1\)\. "):
        spine.run(tmp_path, *CONSTANT, f"resume='{path}'", "lr=1e-2", "seed=1")
    with pytest.raises(UserError, match=r"model \(was"):
        _swap_model(spine, four_steps, tmp_path)


def _swap_model(spine: Spine, four_steps: Path, folder: Path) -> None:
    """The exported model is another model than the one it was trained from."""
    path = four_steps / "checkpoints/phase-0/step-000002.ckpt"
    spine.run(folder, *CONSTANT, f"resume='{path}'", f"model.path='{four_steps / 'model'}'")


def test_a_bent_schedule_refuses_another_number_of_steps(spine, tmp_path):
    spine.run(tmp_path, "lr_schedule=linear", "max_steps=1")
    with pytest.raises(UserError, match=r"max_steps \(was 1, is 2\)"):
        spine.run(tmp_path, "lr_schedule=linear", "max_steps=2")


def test_fewer_steps_than_were_trained_are_refused(spine, four_steps, tmp_path):
    copy_checkpoint(four_steps, tmp_path, "checkpoints/phase-0/step-000004.ckpt")
    with pytest.raises(UserError, match="trained for 4 steps, more than max_steps=3: raise"):
        spine.run(tmp_path, *CONSTANT, "max_steps=3")


def test_a_changed_earlier_phase_is_refused_before_anything_trains(spine, tmp_path):
    token = "model.recommended.textual_inversion"
    base = ("method=ti_then_full", f"{token}.max_steps=1", f"{token}.lr=1e-3", "ppl=false")
    out = spine.run(tmp_path, *base, "max_steps=1")
    before = sorted(p.name for p in out.rglob("*.ckpt"))
    for changed, expected in (
        (f"{token}.lr=2e-3", r"phase-0/.*: lr \(was 0.001, is 0.002\)\. "),
        (f"{token}.max_steps=2", r"phase-1/.*: phase_0.max_steps \(was 1, is 2\)\. "),
        ("frozen_dtype=bfloat16", r": frozen_dtype \(was float32, is bfloat16\)\. "),
    ):
        with pytest.raises(UserError, match=expected):
            spine.run(out, *base, "max_steps=1", changed)
    assert sorted(p.name for p in out.rglob("*.ckpt")) == before
    spine.run(out, *base, "max_steps=2")  # the last phase may go on
    assert checkpoint(out, 1)["global_step"] == 2


def test_a_damaged_checkpoint_is_skipped_by_auto_and_refused_by_name(
    spine, four_steps, tmp_path, caplog
):
    copy_checkpoint(four_steps, tmp_path, "checkpoints/phase-0/step-000002.ckpt")
    damaged = copy_checkpoint(four_steps, tmp_path, "checkpoints/phase-0/step-000004.ckpt")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match="step-000004.ckpt is damaged"):
        spine.run(tmp_path / "named", *CONSTANT, f"resume='{damaged}'")
    with caplog.at_level(logging.WARNING):
        spine.run(tmp_path, *CONSTANT)
    assert "step-000004.ckpt is damaged" in caplog.text
    assert same(checkpoint(tmp_path)["state_dict"], checkpoint(four_steps)["state_dict"])
