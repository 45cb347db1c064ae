"""What another run has trained is taken over to the last bit, with its losses and pictures."""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from dreambooth.files import folder_hash
from dreambooth.training.module import DreamBooth
from dreambooth.training.resuming import trained
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO
from dreambooth.training.resuming.resume import Start
from dreambooth.training.resuming.reuse import Claim
from dreambooth.training.resuming.trained import Trained
from spine import CONSTANT, checkpoint, copy_checkpoint, same

pytestmark = pytest.mark.slow

LOOKED_AT = (*CONSTANT, "ppl=false", "samples.every_n_steps=1", "trainer.log_every_n_steps=1")


@pytest.fixture
def shared(tmp_path) -> tuple[str, ...]:
    """Overrides with which the runs of one test share their trainings."""
    return ("reuse=on", f"cache_dir='{tmp_path / 'cache'}'")


@pytest.fixture(scope="module")
def alone(spine, tmp_path_factory) -> Path:
    """Four steps in one go, with nothing to reuse."""
    return spine.run(tmp_path_factory.mktemp("alone") / "run", *LOOKED_AT)


def phase(out: Path, number: int = 0) -> dict:
    """What a phase cost."""
    return json.loads((out / "run.json").read_text())["costs"][f"phase_{number}"]


def losses(out: Path) -> list[tuple[str, str]]:
    """Each logged step with its loss."""
    with open(out / "metrics.csv") as file:
        return [(row["step"], row["loss/total"]) for row in csv.DictReader(file)]


def sheets(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "samples").glob("*.png")}


def assert_same_training(a: Path, b: Path, number: int = 0) -> None:
    one, other = checkpoint(a, number), checkpoint(b, number)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(one[key], other[key]), key
    assert folder_hash(a / "model" / "unet") == folder_hash(b / "model" / "unet")


def test_more_steps_go_on_and_a_sampler_trains_nothing(spine, alone, shared, tmp_path, caplog):
    more = (*LOOKED_AT, *shared)
    with caplog.at_level(logging.INFO, "dreambooth.training"):
        two = spine.run(tmp_path / "two", *more, "max_steps=2")
        four = spine.run(tmp_path / "four", *more, "checkpoint.keep=1")
        other = spine.run(tmp_path / "other", *more, "scheduler=pndm")
        prompts = "samples.prompts=['a {subject}','a {subject} on the beach']"
        asked = spine.run(tmp_path / "asked", *more, prompts, "sampling.batch_size=1")
    lost = (
        "no samples of step 1, 3: the run that trained them drew others, and its weights of then "
        "are gone. reuse=off resume=null trains again and draws them."
    )
    assert caplog.messages == [
        f"reusing the training of {two} (step 2)",
        f"reusing the training of {four} (step 4)",
        lost,
        f"reusing the training of {four} (step 4)",
        lost,
    ]
    assert [phase(out)["steps"] for out in (two, four, other, asked)] == [2, 2, 0, 0]
    assert phase(two)["reused"] is None
    for out, run, step in ((four, two, 2), (other, four, 4), (asked, four, 4)):
        reused = phase(out)["reused"]
        assert (reused["run"], reused["step"]) == (str(run), step) and reused["seconds"] > 0
        assert_same_training(out, alone)
        assert losses(out) == losses(alone) and len(losses(out)) == 4
    assert sheets(four) == sheets(alone) and len(sheets(four)) == 5
    drawn = {"step-000000.png", "step-000002.png", "final.png"}  # step 2 is kept, where a run ends
    assert sheets(other).keys() == sheets(asked).keys() == drawn
    assert sheets(other)["final.png"] != sheets(alone)["final.png"]
    for name in drawn:
        file = f"samples/{name.removesuffix('.png')}/00_a-sks-dog_seed0.png"
        assert pixels(asked / file) == pixels(alone / file), name


def pixels(file: Path) -> bytes:
    with Image.open(file) as image:
        return image.tobytes()


def train_until_step_two(spine, out: Path, pipe, overrides) -> None:
    """Train in this process, which waits in its third step until the other end says go on."""
    errors = DreamBooth.errors

    def waiting(self, batch):
        if self.global_step == 2:
            pipe.send("at step 2")
            pipe.recv()
        return errors(self, batch)

    DreamBooth.errors = waiting
    spine.run(out, *overrides)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("killed", {"max_steps": 4, "reused": 2, "steps": 2}),  # the second takes over
        ("goes on", {"max_steps": 3, "reused": 3, "steps": 0}),  # it leaves what is waited for
    ],
)
@pytest.mark.thorough
def test_of_two_processes_one_trains_and_the_other_waits(
    spine, alone, shared, tmp_path, monkeypatch, end, expected
):
    more, first = (*LOOKED_AT, *shared, "checkpoint.every_n_steps=2"), tmp_path / "first"
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=train_until_step_two, args=(spine, first, there, more)
    )
    process.start()
    assert process.pid is not None
    child = process.pid
    assert here.poll(60) and here.recv() == "at step 2"
    hold, waited = Trained.hold, []

    def watched(self) -> bool:
        if hold(self):
            return True
        if not waited and end == "killed":
            os.kill(child, signal.SIGKILL)
        elif not waited:
            here.send("go on")
        waited.append(self.key)
        return False

    monkeypatch.setattr(trained, "POLL", 0.05)
    monkeypatch.setattr(Trained, "hold", watched)
    second = spine.run(tmp_path / "second", *more, f"max_steps={expected['max_steps']}")
    process.join()
    assert waited and process.exitcode == (-signal.SIGKILL if end == "killed" else 0)
    cost = phase(second)
    assert cost["steps"] == expected["steps"]
    assert (cost["reused"]["run"], cost["reused"]["step"]) == (str(first), expected["reused"])
    assert_same_training(second if end == "killed" else first, alone)
    assert losses(second) == losses(alone)[: expected["max_steps"]]


@pytest.mark.thorough
def test_phases_averages_and_the_curve_are_those_of_a_run_alone(
    spine, encoders_dir, shared, tmp_path, monkeypatch
):
    monkeypatch.setattr("dreambooth.evaluation.curve_plot.draw_curve", lambda *_: None)
    more = ("method=ti_then_full", "model.recommended.textual_inversion.max_steps=1")
    more += ("ppl=false", "ema_decay=0.5", "checkpoint.best=harmonic", "evaluation.every_n_steps=1")
    more += (f"evaluation.encoders_dir='{encoders_dir}'", "evaluation.encoders=pocket")
    more += ("evaluation.curve.class_images=1", "trainer.log_every_n_steps=1")
    alone = spine.run(tmp_path / "alone", *more, "max_steps=2")
    one = spine.run(tmp_path / "one", *more, *shared, "max_steps=1")
    two = spine.run(tmp_path / "two", *more, *shared, "max_steps=2")
    assert [[phase(out, n)["steps"] for n in (0, 1)] for out in (one, two)] == [[1, 1], [0, 1]]
    assert {phase(two, n)["reused"]["run"] for n in (0, 1)} == {str(one)}
    for number in (0, 1):
        assert_same_training(two, alone, number)
        averages = [checkpoint(out, number)["callbacks"]["MovingAverage"] for out in (alone, two)]
        assert same(*averages)
    assert folder_hash(two / "model") == folder_hash(alone / "model")
    records = [json.loads((out / "run.json").read_text()) for out in (alone, two)]
    assert records[0]["best_step"] == records[1]["best_step"]
    logged = [list(csv.DictReader((out / "metrics.csv").open())) for out in (alone, two)]
    for key, count in (("loss/total", 3), ("curve/harmonic_mean", 4)):
        rows = [[(row["step"], row[key]) for row in each if row[key]] for each in logged]
        assert rows[0] == rows[1] and len(rows[0]) == count
    curves = [list(csv.DictReader((out / "curve.csv").open())) for out in (alone, two)]
    assert [float(row["step"]) for row in curves[1]] == [0, 1, 2, 3]
    scores = [[{k: v for k, v in row.items() if k != "step"} for row in rows] for rows in curves]
    assert scores[0] == scores[1]


def test_without_a_curve_of_the_same_settings_a_run_trains_again(tmp_path, caplog):
    a, b = (Trained(tmp_path, "key", 1.0, tmp_path / run, 2, 0) for run in "ab")
    place = "checkpoints/phase-0"
    publish(a, a.run / place / "step-000002.ckpt", "key")
    spec: Any = SimpleNamespace(curve=SimpleNamespace(every_n_steps=1))
    asked = []
    curve: Any = SimpleNamespace(adopt=lambda run, needed, end: asked.append((run, *needed, end)))
    with caplog.at_level(logging.INFO):
        start = Claim(spec, b, curve).made(Start(b.run / place, {}, None, b), may_take=True)
    assert start.checkpoint is None and b.lock.is_locked
    assert asked == [(a.run, 0, 1, 2)] * 2  # before it has the lock, and with it
    assert caplog.messages == ["Training again: no run of this training has the curve of this one."]
    b.release()


def publish(shared: Trained, path: Path, key: str | None) -> None:
    """Write a checkpoint of a run's second step, and share it."""
    history = {"key": key, "seconds": 1.0, "reused": None}
    VerifiedCheckpointIO({}, lambda: history).save_checkpoint({"global_step": 2}, path)
    shared.publish(path)


def test_the_curve_of_a_run_that_was_trained_anew_is_not_taken(tmp_path):
    a, b = (Trained(tmp_path / "cache", "key", 1.0, tmp_path / run, 2, 0) for run in "ab")
    path = a.run / "checkpoints/phase-0/step-000002.ckpt"
    publish(a, path, "key")
    record = path.with_name(f"{path.name}.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "key": None}))  # resume=null
    spec: Any = SimpleNamespace(curve=SimpleNamespace(every_n_steps=1))
    curve: Any = SimpleNamespace(adopt=lambda *_: pytest.fail("it is of other weights"))
    start = Start(b.run / "checkpoints/phase-0", {}, None, b)
    assert Claim(spec, b, curve).made(start, may_take=True).checkpoint is None
    b.release()


def test_a_cache_that_cannot_be_used_stops_no_run(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    ours = Trained(tmp_path / "cache", "key", 1.0, tmp_path / "run", 2, 0)
    spec: Any = SimpleNamespace(curve=None)
    start = Claim(spec, ours, None).made_if_possible(Start(ours.run, {}, None, ours), True)
    assert start.trained is None and not ours.lock.is_locked
    assert "cache shares no training of this run" in caplog.text


def test_a_training_of_unknown_history_is_not_shared(spine, alone, shared, tmp_path):
    out = tmp_path / "run"
    copy_checkpoint(alone, out, "checkpoints/phase-0/step-000004.ckpt")
    spine.run(out, *LOOKED_AT, *shared, "max_steps=5")
    assert phase(out)["steps"] == 1
    assert not list((tmp_path / "cache").glob("trained/*/*.ckpt"))
