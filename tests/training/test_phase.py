"""An interrupted phase goes on bit for bit; samples change nothing and show each step once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.files import folder_hash, read_csv
from dreambooth.sampling.samples import SampleSet
from dreambooth.training.job import run
from spine import CONSTANT, checkpoint, copy_checkpoint, same

pytestmark = pytest.mark.slow

TWO_PHASES = ("ti_then_full", "pivotal_tuning")
TOKEN_STEPS = 2  # of the first of two phases
PREDICTION = ("prior.kind=prediction",)
STOPS = ("method.adapter.lora_dropout=0.2", "text_encoder_stop_step=3", "loraplus_lr_ratio=4")
ALL = sorted(path.stem for path in (CONF / "method").glob("[!_]*.yaml"))
OPTIONS = {
    "full": (
        "train_text_encoder=true",
        "accumulate=2",
        *PREDICTION,
        "prior.weight_schedule=linear",
    ),
    "lora": ("train_text_encoder=true", *STOPS, *PREDICTION),
    "lokr": ("train_text_encoder=true", "ema_decay=0.9"),
    "oft": ("ppl=false",),
    "pivotal_tuning": (
        f"method.token_max_steps={TOKEN_STEPS}",
        "method.continue_token=true",
        *STOPS,
        *PREDICTION,
    ),
    "textual_inversion": ("ema_decay=0.5", "method.token.templates=object"),
    "ti_then_full": (f"method.token_max_steps={TOKEN_STEPS}",),
    "8bit": ("method=full", "optimizer=adamw_8bit", "ppl=false"),
    "average": ("method=full", "ema_decay=0.9999", "accumulate=2"),
}
SHORT = ("full", "pivotal_tuning")  # the others are thorough; the second has two phases and a LoRA


@dataclass(frozen=True)
class Whole:
    """Four steps of a method in one go, with a bent schedule."""

    options: tuple[str, ...]
    last: int  # number of its last phase
    out: Path


@pytest.fixture(
    scope="module",
    params=[
        m if m in SHORT else pytest.param(m, marks=pytest.mark.thorough)
        for m in sorted({*ALL, *OPTIONS})
    ],
)
def whole(spine, tmp_path_factory, request) -> Whole:
    method, own = request.param, OPTIONS.get(request.param, ())
    own = own if method in OPTIONS and method not in ALL else (f"method={method}", *own)
    schedule = ("lr_schedule=cosine", "lr_warmup_steps=1", "max_steps=4")
    options = (*own, *schedule, "trainer.log_every_n_steps=1")
    out = tmp_path_factory.mktemp(method) / "run"
    spine.run(out, *options, "checkpoint.every_n_steps=2", "reuse=on")
    return Whole(options, int(method in TWO_PHASES), out)


def test_interrupted_after_two_steps_equals_four_in_one_go(spine, whole, tmp_path):
    """In a folder as a kill leaves it, with a log that is ahead of the checkpoint."""
    shutil.copy(whole.out / "metrics.csv", tmp_path)
    for number in range(whole.last + 1):
        copy_checkpoint(whole.out, tmp_path, f"checkpoints/phase-{number}/step-000002.ckpt")
    spine.run(tmp_path, *whole.options, "checkpoint.every_n_steps=100")
    a, b = checkpoint(whole.out, whole.last), checkpoint(tmp_path, whole.last)
    assert a["global_step"] == b["global_step"] == 4
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(a[key], b[key]), key
    averages = [saved["callbacks"].get("MovingAverage") for saved in (a, b)]
    has_average = any("ema" in option for option in whole.options)
    assert same(*averages) and (averages[0] is not None) == has_average
    assert folder_hash(whole.out / "model") == folder_hash(tmp_path / "model")
    # one row for each step, and one axis over all phases
    assert losses(tmp_path) == losses(whole.out)
    steps = range(4 + TOKEN_STEPS * whole.last)
    assert [int(row["step"]) for row in read_csv(whole.out / "metrics.csv")] == [*steps]
    assert [step for step, _ in losses(whole.out)] == [*steps]


def losses(run: Path) -> list[tuple[int, str]]:
    """Each step with its loss."""
    rows = read_csv(run / "metrics.csv")
    return [(int(row["step"]), row["loss/total"]) for row in rows if row["loss/total"]]


@pytest.mark.thorough
def test_the_same_command_draws_the_same_noise_or_takes_the_weights_over(spine, whole, tmp_path):
    def drawn() -> list[tuple[str, int]]:
        """What the cache holds for every method, and when it was written."""
        folders = [p for p in spine.cache.iterdir() if p.name not in ("trained", "exported")]
        files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
        return sorted((str(p), p.stat().st_mtime_ns) for p in files)

    before, runs = drawn(), []
    if whole.last:  # killed between two phases
        border = tmp_path / "border"
        copy_checkpoint(whole.out, border, "checkpoints/phase-0/step-000002.ckpt")
        shutil.copy(whole.out / "metrics.csv", border)
        runs.append((spine.run(border, *whole.options), 4))
    again = spine.run(tmp_path / "again", *whole.options)
    taken = spine.run(tmp_path / "taken", *whole.options, "reuse=on")
    assert drawn() == before and before
    for out, steps in (*runs, (again, 4), (taken, 0)):
        assert folder_hash(out / "model") == folder_hash(whole.out / "model")
        assert losses(out) == losses(whole.out)
        cost = json.loads((out / "run.json").read_text())["costs"][f"phase_{whole.last}"]
        assert cost["steps"] == steps and (cost["reused"] is None) == (steps > 0)


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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_run_stops_when_its_curve_no_longer_rises(early):
    out, _ = early
    record = json.loads((out / "run.json").read_text())
    assert record["stopped_early_at"] == 3 and record["best_step"] is None
    assert record["costs"]["phase_0"]["steps"] == 3
    assert checkpoint(out)["global_step"] == 3
    steps = [row["step"] for row in read_csv(out / "curve.csv")]
    assert steps == ["0", "1", "2", "3"]


def test_a_training_that_ends_for_no_known_reason_is_not_finished(spine, tmp_path):
    spec = spine.spec(tmp_path, "ppl=false")
    ends_at_once = partial(spec.hardware.trainer, limit_train_batches=0)
    with pytest.raises(UserError, match="ended at step 0 of 2 for a reason that is not known"):
        run(replace(spec, hardware=replace(spec.hardware, trainer=ends_at_once)))
    assert not (tmp_path / "run.json").exists()


@pytest.mark.thorough
def test_the_same_command_trains_no_further_and_more_patience_does(spine, early, tmp_path):
    out, more = early
    # killed after the curve was written and before the checkpoint: the step is done once more
    again = shutil.copytree(out, tmp_path / "again")
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
