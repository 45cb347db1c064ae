"""Bars on a terminal: one line, the time left, and above it the whole that it is a part of."""

from __future__ import annotations

import io
import re
from datetime import timedelta

import pytest
from rich.console import Console

from dreambooth.sampling import progress
from dreambooth.sampling.progress import Whole, bars_within, progress_bar, without_bars


@pytest.fixture
def screen(monkeypatch):
    """`screen(width)`: make a terminal; returns what was written to it, line by line."""

    def made(width: int = 80, is_terminal: bool = True):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=width)
        monkeypatch.setattr(progress, "Console", lambda stderr: console)
        return lambda: [
            line
            for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()))
            if line.strip()
        ]

    return made


def test_a_bar_is_one_line_of_a_narrow_terminal(screen):
    lines = screen(80)
    with progress_bar("Training", 12000, done=9000) as advance:
        advance(1, lambda: "instance 0.841 prior 0.662 25.1/s 1.06 GiB")
    shown = lines()[-1]
    assert shown.startswith("Training ") and "9001/12000" in shown and " left " in shown
    assert "instance 0.841 prior 0.6" in shown and max(map(len, lines())) <= 80


def test_the_time_left_is_by_the_mean_pace(screen, monkeypatch):
    lines, clock = screen(), iter([100.0, 160.0, *[161.0] * 50])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("Class images", 100, done=40) as advance:
        advance(20)  # in a minute; 40 are left
    left = timedelta(seconds=2 * 60 - 1)
    assert f"60/100 {left} left" in lines()[-1]


def test_a_sweep_stands_above_the_bars_of_its_runs(screen):
    lines = screen(120)
    with (
        bars_within(Whole("Runs", 72, 3, None, "subject=dog lr=[1e-4]")),
        progress_bar("Samples", 4),
    ):
        pass
    first, second = lines()[-2:]
    assert first.startswith("Runs") and " 3/72" in first and "subject=dog lr=[1e-4]" in first
    assert second.startswith("Samples") and "0/4" in second


def test_logs_have_no_bars_nor_have_runs_side_by_side(screen):
    lines = screen(is_terminal=False)
    with progress_bar("Samples", 4) as advance:
        advance(4, lambda: 1 / 0)  # not even asked for
    screen()
    with without_bars(), progress_bar("Samples", 4), progress_bar("", 4):
        pass
    with progress_bar("Samples", 4, done=4):
        pass
    assert lines() == []
