"""Checkpoints in the cache: shared whole, verified when taken, bounded; a lock says who trains."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from dreambooth.training.resuming import trained
from dreambooth.training.resuming.checkpoint_records import (
    read_checkpoint_record,
    record_path,
    verify,
)
from dreambooth.training.resuming.checkpoints import VerifiedCheckpointIO
from dreambooth.training.resuming.trained import Trained, prune
from spine import left_behind

FACTS = {"lr": 1e-3}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(trained, "POLL", 0)


def place(root: Path, run: str = "a", key: str = "key", last: int = 8, keep_gib: float = 1.0):
    """How one run sees the cache below `root`."""
    return Trained(root / "trained", key, keep_gib, root / run, last, 0)


def save(run: Trained, step: int) -> Path:
    """A checkpoint of one of 1000 bytes per step in a run's own folder."""
    path = run.run / f"step-{step:06d}.ckpt"
    state = {"global_step": step, "state_dict": {}, "filling": b"x" * 1000 * step}
    history = {"key": run.key, "seconds": 0.5 * step, "reused": None}
    VerifiedCheckpointIO(FACTS, lambda: history).save_checkpoint(state, path)
    return path


def steps(run: Trained, after: int = 0) -> list[int]:
    return [each.step for each in run.published(after)]


def test_what_one_run_publishes_another_takes(tmp_path):
    a, b = place(tmp_path, "a"), place(tmp_path, "b", last=6)
    for step in (4, 6, 8):
        a.last = step
        a.publish(save(a, step))
    assert steps(a) == [8, 6, 4] and steps(b) == [6, 4] and steps(b, after=4) == [6]
    path = b.take(b.published()[0], b.run)
    assert path is not None and path.parent == b.run
    assert path.read_bytes() == (a.run / path.name).read_bytes()
    assert path.stat().st_ino == (a.run / path.name).stat().st_ino  # one file under three names
    assert verify(path)["facts"] == FACTS
    reused = {"run": str(a.run), "step": 6, "seconds": 3.0}
    record = read_checkpoint_record(path)
    assert record["reused"] == reused and record["key"] == "key"
    assert b.published()[0].runs == [str(a.run), str(b.run)]


def test_it_is_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    a = place(tmp_path)
    a.publish(save(a, 8))
    path = a.take(a.published()[0], tmp_path / "b")
    assert path is not None and path.read_bytes() == (a.run / path.name).read_bytes()
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_one_is_removed_with_a_warning(tmp_path, caplog, damage):
    a = place(tmp_path)
    a.publish(save(a, 8))
    (found,) = a.published()
    data = bytearray(found.path.read_bytes())
    data[700] ^= damage == "flipped"
    found.path.unlink()  # the run's own file is another one
    found.path.write_bytes(data[: len(data) - (damage == "torn")])
    assert a.take(found, tmp_path / "b") is None
    assert "step-000008.ckpt was damaged and is removed" in caplog.text
    assert a.published() == [] and not found.path.exists()
    assert list((tmp_path / "b").iterdir()) == []
    verify(a.run / "step-000008.ckpt")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 8}'])
def test_one_without_a_whole_record_does_not_count(tmp_path, text):
    a = place(tmp_path)
    a.publish(save(a, 8))
    (found,) = a.published()
    record_path(found.path).write_text(text)
    assert a.published() == []
    found.path.unlink()
    assert a.take(found, tmp_path / "b") is None  # removed between looking and taking


def test_on_the_way_only_the_newest_stays_and_what_others_wait_for(tmp_path, caplog):
    a, b = place(tmp_path, "a"), place(tmp_path, "b", last=4)
    assert a.hold()
    with caplog.at_level(logging.INFO):
        assert not b.hold() and not b.hold()
    assert caplog.messages == [f"Waiting for {a.run}, which trains the same weights."]
    assert [step for step in range(10) if a.is_wanted(step)] == [4]
    for step in (2, 3, 4, 6, 8):
        a.publish(save(a, step))
        assert steps(a)[0] == step
    assert steps(a) == [8, 4] and not a.is_wanted(4)
    a.release()
    assert b.hold()
    b.release()


def test_who_gets_the_lock_clears_what_a_killed_process_left(tmp_path):
    a = place(tmp_path)
    torn = left_behind(a.folder / "step-000008.ckpt")
    (torn / "step-000008.ckpt").write_bytes(b"half")
    assert a.hold() and not torn.exists()
    a.release()


def test_the_least_recently_used_go_first_but_for_what_a_process_trains(tmp_path):
    places = [place(tmp_path, key=key) for key in ("first", "second", "third")]
    for age, each in zip((300, 200, 100), places, strict=True):
        each.publish(saved := save(each, 8))
        saved.unlink()  # as a finished run may do
        record = record_path(each.published()[0].path)
        os.utime(record, (record.stat().st_atime, record.stat().st_mtime - age))
    first, second, third = places
    taken = first.take(first.published()[0], tmp_path / "b")  # now the most recently used
    assert taken is not None
    taken.unlink()
    size = first.published()[0].path.stat().st_size
    two, one = 2.5 * size / 2**30, 1.5 * size / 2**30
    prune(first.root, two)
    assert [steps(each) for each in places] == [[8], [], [8]]
    assert third.hold()
    prune(first.root, one)
    assert [steps(each) for each in places] == [[], [], [8]]
    prune(first.root, 0.0)
    assert steps(third) == [8]
    third.release()
    prune(first.root, 0.0)
    assert steps(third) == []


def test_what_a_runs_folder_holds_too_takes_no_room(tmp_path):
    own = place(tmp_path)
    saved = save(own, 8)
    own.publish(saved)
    prune(own.root, 0.0)
    assert steps(own) == [8]  # a later run of a sweep need not train it again
    saved.unlink()
    prune(own.root, 0.0)
    assert steps(own) == []


def test_what_cannot_be_published_is_a_warning(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    a = place(tmp_path)
    path = save(a, 8)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    a.publish(path)
    assert "step-000008.ckpt is not shared with other runs" in caplog.text and "full" in caplog.text
    assert a.published() == [] and verify(path)["step"] == 8
