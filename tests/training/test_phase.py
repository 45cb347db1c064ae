"""An interrupted phase goes on bit for bit; samples change nothing and show each step once."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
from PIL import Image

from dreambooth.evaluation.curve import Curve
from dreambooth.files import folder_hash, read_csv
from dreambooth.sampling.samples import SampleSet
from spine import CONSTANT, checkpoint, copy_checkpoint, same

pytestmark = pytest.mark.slow

TWO_PHASES = ("ti_then_full", "pivotal_tuning")
PREDICTION = ("prior.kind=prediction",)
METHODS = {
    "full": (
        "train_text_encoder=true",
        "accumulate=2",
        *PREDICTION,
        "prior.weight_schedule=linear",
    ),
    "8bit": ("optimizer=adamw_8bit", "ppl=false"),
    "lora": (
        "method=lora",
        "train_text_encoder=true",
        "method.adapter.lora_dropout=0.2",
        "text_encoder_stop_step=3",
        "loraplus_lr_ratio=4",
        *PREDICTION,
    ),
    "lokr": ("method=lokr", "train_text_encoder=true", "ema_decay=0.9"),
    "oft": ("method=oft", "ppl=false"),
    "custom_diffusion": ("method=custom_diffusion",),
    "pivotal_tuning": (
        "method=pivotal_tuning",
        "method.token_max_steps=2",
        "method.continue_token=true",
        "method.adapter.lora_dropout=0.2",
        "text_encoder_stop_step=3",
        "loraplus_lr_ratio=4",
        *PREDICTION,
    ),
    "average": ("ema_decay=0.9999", "accumulate=2"),
    "textual_inversion": ("method=textual_inversion", "ema_decay=0.5"),
    "ti_then_full": ("method=ti_then_full", "model.recommended.textual_inversion.max_steps=2"),
}


SHORT = ("full", "pivotal_tuning")  # the others are thorough; the second has two phases and a LoRA


@pytest.mark.parametrize(
    "method",
    [m if m in SHORT else pytest.param(m, marks=pytest.mark.thorough) for m in METHODS],
)
def test_interrupted_after_two_steps_equals_four_in_one_go(spine, tmp_path, method):
    schedule = ("lr_schedule=cosine", "lr_warmup_steps=1", "max_steps=4", *METHODS[method])
    whole = spine.run(tmp_path / "whole", *schedule, "checkpoint.every_n_steps=2")
    phase, parts = int(method in TWO_PHASES), tmp_path / "parts"
    copy_checkpoint(whole, parts, f"checkpoints/phase-{phase}/step-000002.ckpt")
    if phase:
        copy_checkpoint(whole, parts, "checkpoints/phase-0/step-000002.ckpt")
    spine.run(parts, *schedule, "checkpoint.every_n_steps=100")
    a, b = checkpoint(whole, phase), checkpoint(parts, phase)
    assert a["global_step"] == b["global_step"] == 4
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(a[key], b[key]), key
    averages = [saved["callbacks"].get("MovingAverage") for saved in (a, b)]
    assert same(*averages) and (averages[0] is not None) == any("ema" in o for o in schedule)
    assert folder_hash(whole / "model") == folder_hash(parts / "model")


def test_sampling_changes_no_weight(spine, four_steps, tmp_path):
    often = spine.run(tmp_path, *CONSTANT, "samples.every_n_steps=1", "scheduler=euler_a")
    assert same(checkpoint(often)["state_dict"], checkpoint(four_steps)["state_dict"])
    assert sheets(often) == {"step-000000.png", "step-000001.png", "step-000002.png"} | {
        "step-000003.png",
        "final.png",  # which is step 4
    }


def sheets(run: Path) -> set[str]:
    return {path.name for path in (run / "samples").glob("*.png")}


def test_no_step_is_drawn_twice(spine, tmp_path, monkeypatch):
    """The end of a phase is the start of the next one, and the end of the last is `final`."""
    drawn, draw = [], SampleSet.draw
    monkeypatch.setattr(
        SampleSet, "draw", lambda self, *args: drawn.append(args[3]) or draw(self, *args)
    )
    phases = ("method=ti_then_full", "model.recommended.textual_inversion.max_steps=2")
    out = spine.run(tmp_path, *phases, "max_steps=4", "samples.every_n_steps=2", "ppl=false")
    assert drawn == ["step-000000", "step-000002", "step-000004", "final"]
    assert sheets(out) == {f"{name}.png" for name in drawn}
    images = {path.read_bytes() for path in (out / "samples").glob("*/*.png")}
    assert len(images) == 4


def test_the_last_step_is_drawn_where_the_best_one_is_exported(
    spine, encoders_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(Curve, "best", lambda self: 1 if self.last_step else None)
    curve = ("evaluation.every_n_steps=1", "evaluation.encoders=pocket")
    curve += (f"evaluation.encoders_dir='{encoders_dir}'", "checkpoint.best=harmonic")
    out = spine.run(tmp_path, *curve, "samples.every_n_steps=1", "ppl=false")
    assert sheets(out) == {f"step-00000{i}.png" for i in range(3)} | {"final.png"}
    first, last, final = (
        [Image.open(path).tobytes() for path in sorted((out / "samples" / name).glob("*.png"))]
        for name in ("step-000001", "step-000002", "final")
    )
    assert final == first != last


@pytest.fixture(scope="module")
def early(spine, encoders_dir, tmp_path_factory):
    """A run of six steps whose curve is best at step 1, with a patience of 2 points."""
    out = tmp_path_factory.mktemp("early") / "run"
    more = ("max_steps=6", "checkpoint.patience=2", "evaluation.every_n_steps=1", "ppl=false")
    more += ("evaluation.curve.class_images=2", "evaluation.encoders=pocket")
    more += (f"evaluation.encoders_dir='{encoders_dir}'",)
    falling = lambda self, scores: (1 / (1 + scores.get("step", 0)),) * 2  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curve, "_rule", falling)
        yield spine.run(out, *more, "checkpoint.every_n_steps=2"), more


def test_a_run_stops_when_its_curve_no_longer_rises(early):
    out, _ = early
    record = json.loads((out / "run.json").read_text())
    assert record["stopped_early_at"] == 3 and record["best_step"] is None
    assert record["costs"]["phase_0"]["steps"] == 3
    assert checkpoint(out)["global_step"] == 3
    steps = [row["step"] for row in read_csv(out / "curve.csv")]
    assert steps == ["0", "1", "2", "3"]


def test_the_same_command_trains_no_further_and_more_patience_does(spine, early, tmp_path):
    out, more = early
    # killed after the curve was written and before the checkpoint: the step is done once more
    again = copytree(out, tmp_path / "again")
    (again / "checkpoints/phase-0/step-000003.ckpt").unlink()
    record = json.loads((spine.run(again, *more) / "run.json").read_text())
    assert record["stopped_early_at"] == 3 and record["costs"]["phase_0"]["steps"] == 1
    assert same(checkpoint(again)["state_dict"], checkpoint(out)["state_dict"])
    assert folder_hash(again / "model") == folder_hash(out / "model")
    record = json.loads((spine.run(out, *more) / "run.json").read_text())
    assert record["stopped_early_at"] == 3 and record["costs"]["phase_0"]["steps"] == 0
    spine.run(again, *more, "checkpoint.patience=3", "checkpoint.keep=1")
    assert [p.name for p in again.glob("checkpoints/phase-0/*.ckpt")] == ["step-000004.ckpt"]


def test_steps_are_optimizer_updates(spine, tmp_path):
    out = spine.run(tmp_path, "max_steps=3", "accumulate=2")
    steps = {int(s["step"]) for s in checkpoint(out)["optimizer_states"][0]["state"].values()}
    assert steps == {3}
