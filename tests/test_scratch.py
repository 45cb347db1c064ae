"""What a killed process leaves is no result, and goes; what a living one writes stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth import scratch
from dreambooth.files import atomic, write_json
from dreambooth.scratch import find_files, remove_leftovers


def killed(work: Callable[[], None]) -> None:
    """Do some work in a process of its own that ends itself by SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text("{}")
        kill()


def test_what_a_killed_process_was_writing_is_no_file_and_is_removed(tmp_path):
    run = tmp_path / "run"
    write_json(run / "run.json", {})
    killed(lambda: half_written(run / "run.json"))
    assert len(list(tmp_path.rglob("run.json"))) == 2
    assert find_files(tmp_path, "run.json") == [run / "run.json"]
    with atomic(run / "metrics.csv") as temporary:  # of a living process
        temporary.write_text("half")
        remove_leftovers(tmp_path, deep=True)
        assert temporary.exists()
    assert [path.name for path in run.iterdir() if path.name != "metrics.csv"] == ["run.json"]


def test_a_folder_that_was_moved_away_comes_back(tmp_path, monkeypatch):
    with atomic(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "earlier.txt").write_text("whole")

    def replaced() -> None:
        monkeypatch.setattr(os, "replace", lambda *_: kill())
        with atomic(tmp_path / "model") as temporary:
            temporary.mkdir()

    killed(replaced)
    assert not (tmp_path / "model").exists()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "earlier.txt").read_text() == "whole"


@pytest.mark.parametrize("age, is_left", [(10, False), (2 * scratch.DAY, True)])
def test_another_machines_is_removed_when_it_is_a_day_old(tmp_path, monkeypatch, age, is_left):
    killed(lambda: half_written(tmp_path / "x"))
    (folder,) = tmp_path.iterdir()
    then = folder.stat().st_mtime - age
    os.utime(folder, (then, then))
    monkeypatch.setattr(scratch, "_place", lambda: "00000000")
    remove_leftovers(tmp_path)
    assert folder.exists() != is_left


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path, monkeypatch):
    with atomic(tmp_path / "x") as temporary:
        temporary.write_text("")
        monkeypatch.setattr(scratch, "_start_of", lambda pid: 1)
        remove_leftovers(tmp_path)
        assert not temporary.exists()
        temporary.parent.mkdir()
        temporary.write_text("again")
