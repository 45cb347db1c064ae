"""Checkpoints are whole or not there, hold what trains, and go only after a newer one is good."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.training.resuming import checkpoint_records, checkpoints
from dreambooth.training.resuming.checkpoint_records import record_path, verify
from dreambooth.training.resuming.checkpoints import Checkpoints, VerifiedCheckpointIO
from dreambooth.training.resuming.resume import find
from dreambooth.training.safety import StopAtStepBoundary
from spine import checkpoint

FACTS = {"lr": 1e-3, "prior": {"weight": 1.0, "seed": 0}, "phase": {"unet": "full"}}


def save(path: Path, step: int, facts: dict = FACTS) -> Path:
    """A checkpoint of one tensor that knows its step."""
    state = {"global_step": step, "state_dict": {"w": torch.full((50_000,), float(step))}}
    VerifiedCheckpointIO(facts).save_checkpoint(state, path)
    return path


def load(path: Path) -> dict:
    return VerifiedCheckpointIO(FACTS).load_checkpoint(path)


def test_what_is_saved_is_loaded_with_a_record_beside_it(tmp_path):
    path = save(tmp_path / "step-000003.ckpt", 3)
    assert torch.equal(load(path)["state_dict"]["w"], torch.full((50_000,), 3.0))
    assert json.loads(record_path(path).read_text())["facts"] == FACTS
    assert verify(path)["step"] == 3
    assert sorted(os.listdir(tmp_path)) == ["step-000003.ckpt", "step-000003.ckpt.json"]


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "no record", "half a record", "another step", "gone"]
)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = save(tmp_path / "a.ckpt", 1)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "flipped":
        data[1000] ^= 1
        path.write_bytes(data)
    elif damage == "no record":
        record_path(path).unlink()
    elif damage == "half a record":
        record_path(path).write_text(record_path(path).read_text()[:40])
    elif damage == "another step":
        text = record_path(path).read_text()
        record_path(path).write_text(text.replace('"step": 1', '"step": 2'))
    else:
        path.unlink()
    for refuse in (verify, load, lambda p: find(tmp_path, str(p))):
        with pytest.raises(UserError, match=r"a\.ckpt .*(another one|existing \.ckpt)\.$"):
            refuse(path)


def test_no_object_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    path = tmp_path / "a.ckpt"
    VerifiedCheckpointIO(FACTS).save_checkpoint({"global_step": 1, "x": Evil()}, path)
    with pytest.raises(UserError, match="(?i)weights.only"):
        load(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("at", ["torch.save", "os.replace", "os.fsync"])
def test_an_interrupted_save_leaves_the_earlier_one_whole(tmp_path, monkeypatch, at):
    path = save(tmp_path / "a.ckpt", 1)

    def fail(*args, **kwargs):
        if at == "torch.save":
            args[1].write(b"half a checkpoint")
        raise OSError(errno.EIO, "interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(at, fail)
        with pytest.raises(OSError, match="interrupted"):
            save(path, 2)
        with pytest.raises(OSError, match="interrupted"):
            save(tmp_path / "b.ckpt", 2)
    assert verify(path)["step"] == 1 and load(path)["state_dict"]["w"][0] == 1
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.json"]


def test_a_full_disk_in_the_middle_of_a_save(tmp_path, monkeypatch):
    path = save(tmp_path / "a.ckpt", 1)
    written = 0

    def write(self, data):
        nonlocal written
        written += len(data)
        if written > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    monkeypatch.setattr("dreambooth.training.resuming.checkpoints._Hashing.write", write)
    with pytest.raises(UserError, match="is full: free some room"):
        save(path, 2)
    assert written > 100_000 and verify(path)["step"] == 1
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.ckpt.json"]


def _replace_by_a_new_one(folder: Path, killed_at: int) -> None:
    """Write step 2 and remove step 1; die just before the n-th change of the disk (0: never)."""
    changes = itertools.count(1)

    def deadly(function):
        def call(*args, **kwargs):
            if next(changes) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (os, "rename"),
        (Path, "unlink"),
        (Path, "write_text"),
        (checkpoints._Hashing, "write"),
    ):
        setattr(owner, name, deadly(getattr(owner, name)))
    save(folder / "step-000002.ckpt", 2)
    VerifiedCheckpointIO(FACTS).remove_checkpoint(folder / "step-000001.ckpt")
    os._exit(next(changes) % 256)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_killed_process_leaves_only_whole_checkpoints(tmp_path):
    newest, killed_at, ended = [], 0, None
    while ended is None or ended < 0:
        folder, killed_at = tmp_path / str(killed_at), killed_at + 1
        save(folder / "step-000001.ckpt", 1)
        arguments = (folder, killed_at)
        process = multiprocessing.get_context("fork").Process(
            target=_replace_by_a_new_one, args=arguments
        )
        process.start()
        process.join()
        ended = process.exitcode
        for record in folder.glob("*.ckpt.json"):
            path = record.with_suffix("")
            step = verify(path)["step"]
            assert torch.equal(load(path)["state_dict"]["w"], torch.full((50_000,), float(step)))
        found = find(folder, "auto")
        assert found is not None, f"killed before change {killed_at} of the disk"
        newest.append(verify(found)["step"])
    assert ended == killed_at  # the last process made all changes and was not killed
    assert killed_at > 10 and newest == sorted(newest) and set(newest) == {1, 2}


class FakeTrainer:
    """Enough of a Trainer to save and to prune."""

    is_global_zero, world_size, loggers = True, 1, ()

    def __init__(self, fail_at: int = -1) -> None:
        self.global_step, self.fail_at = 0, fail_at
        self.checkpoint_io = VerifiedCheckpointIO(FACTS)
        self.strategy = self

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        assert not weights_only
        if self.global_step == self.fail_at:
            raise OSError("interrupted")
        save(path, self.global_step)


def train(folder: Path, start: int, stop: int, keep: int, every: int = 2, fail_at: int = -1):
    trainer = FakeTrainer(fail_at)
    callback = Checkpoints(folder, every_n_steps=every, keep=keep, stop=StopAtStepBoundary())
    trainer.global_step = start
    callback.on_train_start(trainer, None)
    for step in range(start + 1, stop + 1):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, 0)
        callback.on_train_batch_end(trainer, None, None, None, 1)  # a further micro-batch
    callback.on_train_end(trainer, None)


def steps(folder: Path) -> list[int]:
    return [verify(path)["step"] for path in sorted(folder.glob("*.ckpt"))]


def test_the_newest_are_kept_and_the_last_step_always(tmp_path):
    train(tmp_path, 0, 9, keep=2)
    assert steps(tmp_path) == [8, 9]
    assert len(os.listdir(tmp_path)) == 4
    train(tmp_path, 9, 12, keep=3, every=100)
    assert steps(tmp_path) == [8, 9, 12]


def test_nothing_is_pruned_before_the_new_one_is_good(tmp_path, monkeypatch):
    train(tmp_path, 0, 4, keep=1)
    with pytest.raises(OSError, match="interrupted"):
        train(tmp_path, 4, 6, keep=1, fail_at=6)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="000006.ckpt is damaged"):
        patch.setattr(checkpoint_records, "file_hash", lambda path: "of other bytes")
        train(tmp_path, 4, 6, keep=1)
    assert steps(tmp_path) == [4, 6]


def test_a_new_history_replaces_what_lay_beyond_its_start(tmp_path):
    train(tmp_path, 0, 8, keep=4)
    with pytest.raises(OSError):
        train(tmp_path, 4, 6, keep=4, fail_at=6)
    assert steps(tmp_path) == [2, 4, 6, 8]  # still, for nothing new was written
    train(tmp_path, 4, 6, keep=4)
    assert steps(tmp_path) == [2, 4, 6]
    train(tmp_path, 0, 1, keep=4)
    assert steps(tmp_path) == [1]


class Waiting:
    """A run that waits for a checkpoint, and what it is given."""

    def __init__(self) -> None:
        self.wanted, self.given = set(), []

    def is_wanted(self, step: int) -> bool:
        return step in self.wanted

    def publish(self, path: Path) -> None:
        self.given.append(path.name)


def test_a_step_that_is_waited_for_is_saved_when_its_update_is_complete(tmp_path):
    trainer, waiting = FakeTrainer(), Waiting()
    callback = Checkpoints(tmp_path, 100, 9, StopAtStepBoundary(), waiting)
    callback.on_train_start(trainer, None)
    for step, wanted in ((1, {2}), (2, {3}), (3, set()), (4, {4})):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, 0)
        waiting.wanted = wanted
        callback.on_train_batch_start(trainer, None, None, 1)
        callback.on_train_batch_end(trainer, None, None, None, 1)  # a further micro-batch
    assert steps(tmp_path) == [2, 3]  # 4 was asked for in the middle of the next update
    assert waiting.given == ["step-000002.ckpt", "step-000003.ckpt"]
    callback.on_train_end(trainer, None)
    assert steps(tmp_path) == [2, 3, 4] and waiting.given[-1] == "step-000004.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "names"),
    [
        (("train_text_encoder=false",), {"unet."}),
        (("train_text_encoder=true",), {"unet.", "text_encoder."}),
        (("method=lora",), {"unet."}),
        (("method=textual_inversion",), {"token.<photos>"}),
    ],
)
def test_a_checkpoint_holds_exactly_what_trains(spine, tiny_model_dir, tmp_path, method, names):
    from dreambooth.model.stable_diffusion import StableDiffusion

    saved = checkpoint(spine.run(tmp_path, "max_steps=1", *method))
    state = saved["state_dict"]
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    if "method=lora" in method:
        attentions = [n for n, _ in model.unet.named_modules() if n.endswith(("to_q", "to_out.0"))]
        assert len(state) == 2 * 2 * len(attentions)  # A and B of q, k, v and out
        assert all(".lora_A." in name or ".lora_B." in name for name in state)
    elif "method=textual_inversion" in method:
        assert {k: tuple(v.shape) for k, v in state.items()} == {"token.<photos>": (8, 32)}
    else:
        full = {n for n, _ in model.named_parameters() if n.startswith(tuple(names))}
        assert set(state) == full
    moments = saved["optimizer_states"][0]["state"].values()
    if "method=textual_inversion" not in method:  # whose matrix is one parameter
        assert len(moments) == len(state)
    assert set(saved) & {"hyper_parameters", "datamodule_hyper_parameters"} == set()
