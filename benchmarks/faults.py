"""Faults to provoke: stop a process at a write boundary, fail as a full disk, slow it down.

A boundary is a call that makes bytes or names last: fsync, rename, replace or link. Processes are
forks of this one, which has imported the program, so that a command starts in milliseconds.
"""

from __future__ import annotations

import errno
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CALLS = ("fsync", "replace", "rename", "link")
LONGEST = 300  # seconds of a process, which then counts as crashed
AS_IT_SHOULD_BE = "as it should be"
Act = Callable[[int, str], None]


def kill(*_: object) -> None:
    """End this process as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(*_: object) -> None:
    """Fail as a write on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def at_boundary(number: int, when: str, action: Act = kill, mark: Path | None = None) -> None:
    """Do `action` in this process `before` or `after` its boundary of that number, from 0.

    Args:
        mark: a file that is there once the boundary was reached.
    """

    def act(count: int, moment: str) -> None:
        if (count, moment) == (number, when):
            if mark is not None:
                mark.touch()
            action(count, moment)

    on_boundaries(act)


def slowly(seed: int, most: float) -> None:
    """Wait up to `most` seconds before and after every boundary of this process."""
    draw = random.Random(seed)
    on_boundaries(lambda *_: time.sleep(draw.uniform(0, most)))


def on_boundaries(act: Act) -> None:
    """Call `act(number, "before" or "after")` at every boundary of this process.

    Those of its children do not count.
    """
    count, process = -1, os.getpid()

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def boundary(*args: Any, **options: Any) -> Any:
            nonlocal count
            if os.getpid() != process:
                return call(*args, **options)
            count += 1
            number = count
            act(number, "before")
            result = call(*args, **options)
            act(number, "after")
            return result

        return boundary

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def sync_nothing() -> None:
    """Let fsync do nothing in this process: no fault here loses what the system has been given.

    It is half the time of a short run on a usual disk.
    """
    os.fsync = lambda _: None


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and all that it printed."""

    code: int
    printed: str

    @property
    def crashed(self) -> bool:
        """Whether it ended with a traceback, or after too long a time."""
        return "Traceback" in self.printed or self.code in (70, -signal.SIGALRM)


def commit() -> str:
    """Name the commit that is attacked, with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or "unknown"


def import_rooms(*names: str) -> None:
    """Import modules of the package, such as `training.job`, so that forks have them in memory."""
    for name in names:
        import_module(f"dreambooth.{name}")


def fork(work: Callable[[], Any], log: Path, seconds: int = LONGEST) -> int:
    """Start `work` in a process of its own, which prints into `log`; return its id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        # the streams of a fork in a fork: one that is replaced must not close what replaces it
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        signal.alarm(seconds)
        work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def wait(child: int, log: Path) -> Ended:
    """Wait for a forked process."""
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def run(
    script: str,
    arguments: Sequence[str],
    folder: Path,
    arm: Callable[[], None] | None = None,
    log: str = "log.txt",
    seconds: int = LONGEST,
) -> Ended:
    """Run an entry script such as `train.py` in `folder`, after `arm` has prepared its process.

    What it prints goes into `log`, relative to the folder.
    """
    return wait(start(script, arguments, folder, arm, log, seconds), folder / log)


def start(
    script: str,
    arguments: Sequence[str],
    folder: Path,
    arm: Callable[[], None] | None = None,
    log: str = "log.txt",
    seconds: int = LONGEST,
) -> int:
    """As `run`, without waiting; return the process's id."""

    def work() -> None:
        os.chdir(folder)
        sync_nothing()
        if arm is not None:
            arm()
        sys.argv = [str(ROOT / script), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")

    return fork(work, folder / log, seconds)
