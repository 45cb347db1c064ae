"""A bar with the time left, for work that a user waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

NARROW, WIDE = 10, 24  # characters of a bar: on a terminal of 80 columns, and where there is room


@dataclass(frozen=True)
class Whole:
    """Work of many parts, such as a sweep of runs, whose bar stands above the bar of each part.

    `ends` is when all will be done, as `time.monotonic` counts; None where nobody knows yet.
    """

    title: str
    total: int
    done: int
    ends: float | None
    note: str


_whole: ContextVar[Whole | None] = ContextVar("whole", default=None)
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


class Advance(Protocol):
    """Move a bar on by `count`, and write behind it what `note` returns."""

    def __call__(self, count: int, note: Callable[[], str] = str) -> None: ...


@contextmanager
def bars_within(whole: Whole) -> Iterator[None]:
    """Show the bar of `whole` above every bar of the block."""
    token = _whole.set(whole)
    try:
        yield
    finally:
        _whole.reset(token)


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no bar in the block."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a bar on a terminal's stderr while the block runs; yield `advance(count, note)`.

    A bar is one line, cut off where the terminal is too narrow. Nothing is shown without a title,
    without work, or where the output is not a terminal. No other bar may be shown at the same time.

    Args:
        done: how much of `total` was there before.
    """
    console, whole = Console(stderr=True), _whole.get()
    if not title or done >= total or not console.is_terminal or _hidden.get():
        yield lambda count, note=str: None
        return
    one_line = Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", table_column=one_line),
        BarColumn(WIDE if console.width >= 100 else NARROW),
        MofNCompleteColumn(table_column=one_line),
        TimeLeft(table_column=one_line),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bars:
        if whole is not None:
            bars.add_task(
                whole.title,
                total=whole.total,
                completed=whole.done,
                ends=whole.ends,
                note=whole.note,
            )
        task = bars.add_task(title, total=total, completed=done, done=done, ends=None, note="")
        started = time.monotonic()

        def advance(count: int, note: Callable[[], str] = str) -> None:
            bars.update(task, advance=count, note=note())
            now, state = time.monotonic(), bars.tasks[-1]
            pace = (now - started) / max(state.completed - done, 1)
            bars.update(task, ends=now + pace * (total - state.completed))

        yield advance


class TimeLeft(ProgressColumn):
    """The time left until a task's `ends`: `0:01:30 left`; nothing where nobody knows yet.

    A bar's pace is the mean since it began: Rich's own column forgets all but the last half minute,
    in which a batch of images may not end.
    """

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Count down between two parts of the work."""
        if task.fields["ends"] is None:
            return Text("")
        minutes, seconds = divmod(max(0, round(task.fields["ends"] - time.monotonic())), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
