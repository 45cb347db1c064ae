"""Where a phase begins: at the newest checkpoint of the same training, or not at all."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO
from dreambooth.training.resuming.resume import find, refuse_other_facts
from spine import CONSTANT, Spine, checkpoint, copy_checkpoint, same

pytestmark = pytest.mark.slow

PRIOR = {"kind": "images", "weight": 1.0, "seed": 0, "num_inference_steps": 20}
FACTS = {"lr": 1e-3, "ppl": True, "prior": PRIOR, "class_prompt": "a dog", "class_images": "a key"}


def save(path: Path, step: int, **facts: object) -> Path:
    """A checkpoint that knows its step."""
    state = {"global_step": step, "state_dict": {}}
    VerifiedCheckpointIO({**FACTS, **facts}).save_checkpoint(state, path)
    return path


def test_auto_takes_the_newest_that_is_whole(tmp_path, caplog):
    assert find(tmp_path / "absent", "auto") is None
    for step in (2, 10, 9):
        save(tmp_path / f"step-{step:06d}.ckpt", step)
    assert find(tmp_path, "auto").name == "step-000010.ckpt" and not caplog.text
    (tmp_path / "step-000010.ckpt").write_bytes(b"torn")
    assert find(tmp_path, "auto").name == "step-000009.ckpt"
    assert "step-000010.ckpt is damaged" in caplog.text
    assert find(tmp_path, None) is None


def test_other_facts_are_named_with_both_values(tmp_path):
    path = save(tmp_path / "a.ckpt", 1)
    refuse_other_facts(path, json.loads(json.dumps(FACTS)))
    changed = {**FACTS, "lr": 2e-3, "prior": {**PRIOR, "seed": 1}, "phase": {"unet": "full"}}
    with pytest.raises(UserError) as caught:
        refuse_other_facts(path, changed)
    for part in (
        "lr (was 0.001, is 0.002)",
        "phase.unet (was None, is full)",
        "prior.seed (was 0, is 1)",
    ):
        assert part in str(caught.value)
    assert "weight" not in str(caught.value) and "class_prompt" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"ppl": False, "class_images": None}, {}),
        ({"class_images": None}, {}),  # a method without a prior loss
        ({"prior": {**PRIOR, "kind": "prediction"}}, {"kind": "prediction", "weight": 1.0}),
        ({"prior": {**PRIOR, "images_dir": "DIR"}}, {"kind": "images", "weight": 1.0}),
    ],
)
def test_a_checkpoint_that_counted_unused_settings_of_the_prior_is_gone_on_from(
    tmp_path, before, now
):
    """As an earlier version wrote it."""
    path, used = save(tmp_path / "a.ckpt", 1, **before), bool(now)
    counted = {"ppl": used, "prior": now or None, "class_prompt": "a dog" if used else None}
    refuse_other_facts(path, {**FACTS, **before, **counted})
    with pytest.raises(UserError, match="lr .was 0.001, is 1"):
        refuse_other_facts(path, {**FACTS, **before, **counted, "lr": 1})


def test_of_a_prior_that_is_gone_one_key_is_named(tmp_path):
    gone = {"ppl": False, "prior": None, "class_prompt": None, "class_images": None}
    with pytest.raises(UserError, match=r"configuration: ppl \(was True, is False\)\. Restore"):
        refuse_other_facts(save(tmp_path / "a.ckpt", 1), {**FACTS, **gone})


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


@pytest.mark.thorough
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
