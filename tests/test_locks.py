"""One run in a folder, one process at a part of the cache, and words while one waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dreambooth import locks
from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.locks import held, locked


@contextmanager
def elsewhere(lock, path: Path) -> Iterator[int]:
    """Hold a lock in another process until it is killed; it leaves a half-written file."""
    reader, writer = os.pipe()

    def hold() -> None:
        with lock(path), atomic(path.parent / path.name / "half") as temporary:
            temporary.write_text("half")
            os.write(writer, b".")
            signal.pause()

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    os.read(reader, 1)
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        process.kill()
        process.join(60)


def test_a_second_run_in_a_folder_is_refused_by_the_name_of_the_first(tmp_path):
    with elsewhere(held, tmp_path / "run") as pid:
        words = f"run is in use: process {pid} on .*, since 20.*choose another folder"
        with pytest.raises(UserError, match=words), held(tmp_path / "run"):
            pass


def test_a_dead_owners_folder_is_taken_over_and_cleared(tmp_path):
    with elsewhere(held, tmp_path / "run"):
        pass
    with held(tmp_path / "run"):
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {locks.RUN_LOCK, locks.OWNER}
    assert [path.name for path in (tmp_path / "run").iterdir()] == [locks.RUN_LOCK]


def test_waiting_for_another_process_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SILENT", 0.01)
    with elsewhere(locked, tmp_path / "x"):
        context = multiprocessing.get_context("fork")
        waits = context.Process(target=_log_to, args=(tmp_path / "x", tmp_path / "said"))
        waits.start()
        while not (tmp_path / "said").exists():
            assert waits.is_alive()
    waits.join(60)
    assert waits.exitcode == 0
    assert (tmp_path / "said").read_text().startswith("Waiting for another process")


def _log_to(path: Path, file: Path) -> None:
    locks.log.info = lambda text, *values: file.write_text(text % values)
    with locked(path):
        pass
