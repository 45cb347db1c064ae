"""Attacks on processes: killed, stopped, out of disk, together, with a W&B server that is away."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import faults
import surroundings
from attacked_run import ALONE, EVALUATE, EXTENDED, REPORT, TRAIN
from faults import AS_IT_SHOULD_BE
from judging import NOT_APPLICABLE, Case, Judge, refused, worded

MOST_FOR_WANDB = 7  # seconds that a server which is away may cost: 1 at the start, 5 at the end
FULL = (" is full", "No space left")  # what a run says of its disk
STARTS = 0.05  # seconds until a fork has handlers of signals


def settings_of(number: int) -> tuple[str, ...]:
    """Choose between a run that shares its training and one that does not, by a case's number."""
    return ALONE if number % 2 else TRAIN


class ProcessAttacks:
    """Cases that stop processes, or let them meet."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def kills(self, when: str) -> Iterator[Case]:
        """Kill `before` or `after` every boundary; the same command must finish the run."""
        for number in range(self.judge.untouched.boundaries(TRAIN)):
            name = f"kill {when} boundary {number}"
            yield name, lambda f, n=number: self._killed(f, n, when)

    def _killed(self, folder: Path, number: int, when: str) -> str:
        settings = settings_of(number)
        return self.kill(folder, number, when, settings) or self.judge.finishes(folder, settings)

    def kill(self, folder: Path, number: int, when: str, settings: Sequence[str]) -> str | None:
        """Kill a run at a boundary; say what is wrong with how it ended."""
        arm = lambda: faults.at_boundary(number, when)  # noqa: E731
        ended = faults.run("train.py", settings, folder, arm)
        if ended.code == -signal.SIGKILL:
            return None
        return worded(ended) or f"{NOT_APPLICABLE}: it ended before, with {ended.code}"

    def full_disks(self) -> Iterator[Case]:
        """Fail at every boundary as a full disk does."""
        for number in range(self.judge.untouched.boundaries(TRAIN)):
            yield f"full disk at boundary {number}", lambda f, n=number: self._full(f, n)

    def _full(self, folder: Path, number: int) -> str:
        settings, mark = settings_of(number), folder / "reached"
        arm = lambda: faults.at_boundary(number, "before", faults.fill_disk, mark)  # noqa: E731
        ended = faults.run("train.py", settings, folder, arm)
        if not mark.exists():
            return worded(ended) or f"{NOT_APPLICABLE}: it ended before, with {ended.code}"
        if outcome := worded(ended):
            return outcome
        if not any(words in ended.printed for words in FULL):
            return f"silent: no word of the full disk, exit code {ended.code}"
        return self.judge.finishes(folder, settings)

    def filled_disks(self) -> Iterator[Case]:
        """Fill a real disk at a boundary, so that a later write finds no room."""
        draw = random.Random(2)
        for number in range(60 if surroundings.can_mount() else 0):
            boundary = draw.randrange(self.judge.untouched.boundaries(TRAIN))
            left = draw.choice((0, 4096, 100_000, 1_000_000, 20_000_000, 100_000_000))
            name = f"filled disk {number}, {left} bytes left at boundary {boundary}"
            case = (self._filled, boundary, left, settings_of(number))
            yield name, lambda f, c=case: surroundings.on_own_disk(f, *c)

    def _filled(self, folder: Path, boundary: int, left: int, settings: Sequence[str]) -> str:
        filler = folder / "filler"

        def arm() -> None:
            faults.at_boundary(boundary, "before", lambda *_: surroundings.fill(filler, left))

        first = faults.run("train.py", settings, folder, arm, log="../log.txt")
        if not filler.exists():
            return worded(first) or f"{NOT_APPLICABLE}: the disk was never filled"
        filler.unlink()
        if first.code and not any(words in first.printed for words in FULL):
            return f"traceback: exit code {first.code}: {first.printed[-2000:]}"
        return worded(first) or self.judge.finishes(folder, settings)

    def signals(self) -> Iterator[Case]:
        """Send Ctrl-C or SIGTERM at a random moment, sometimes twice."""
        draw = random.Random(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            for _ in range(25):
                after, times = draw.uniform(0.02, 3), draw.choice((1, 1, 2))
                name = f"signal {number} after {after:.2f} s, {times} times"
                yield name, lambda f, n=number, a=after, t=times: self._signalled(f, n, a, t)

    def _signalled(self, folder: Path, number: int, after: float, times: int) -> str:
        pid = faults.start("train.py", TRAIN, folder, _usual_signals)
        for _ in range(times):
            time.sleep(after)
            os.kill(pid, number)
        ended = faults.wait(pid, folder / "log.txt")
        if ended.crashed:
            return f"traceback: {ended.printed[-2000:]}"
        if ended.code not in (0, 128 + number) and after > STARTS:
            return f"traceback: exit code {ended.code}: {ended.printed[-500:]}"
        if ended.code > 0 and "Stopped" not in ended.printed:
            return f"silent: ended with {ended.code} and without a word"
        return self.judge.finishes(folder)

    def races(self) -> Iterator[Case]:
        """Start three jobs on one empty cache, slowed down at every boundary."""
        for seed in range(30):
            yield f"race {seed}", lambda f, s=seed: self._race(f, s)

    def _race(self, folder: Path, seed: int) -> str:
        jobs = {}
        for job in range(3):
            own = folder / str(job)
            own.mkdir()
            arguments = [*TRAIN, "cache_dir=../cache", *(["seed=1"] if job == 2 else [])]
            arm = lambda s=seed * 3 + job: faults.slowly(s, 0.01)  # noqa: E731
            jobs[own] = faults.start("train.py", arguments, own, arm)
        ended = [faults.wait(pid, own / "log.txt") for own, pid in jobs.items()]
        if crashed := [each.printed[-2000:] for each in ended if each.crashed]:
            return f"traceback: {crashed[0]}"
        if bad := [each.printed[-2000:] for each in ended if each.code]:
            return f"lost: {bad[0]}"
        outcomes = {self.judge.compared(own) for own in list(jobs)[:2]}
        return next(iter(outcomes - {AS_IT_SHOULD_BE}), AS_IT_SHOULD_BE)

    def readers(self) -> Iterator[Case]:
        """Report on and score a run's folder, again and again, while train.py works in it."""
        for seed in range(20):
            yield f"readers {seed}", lambda f, s=seed: self._read(f, s)

    def _read(self, folder: Path, seed: int) -> str:
        settings = EXTENDED if seed % 2 else TRAIN
        if settings is EXTENDED:  # a finished run, which is extended meanwhile
            self.judge.untouched.copy(folder)
        pid = faults.start("train.py", settings, folder, lambda: faults.slowly(seed, 0.04))
        draw, outcomes = random.Random(seed), []
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(draw.uniform(0, 1))
            script, arguments = draw.choice((("report.py", REPORT), ("evaluate.py", EVALUATE)))
            ended = faults.run(script, arguments, folder, log="reader.txt")
            outcomes.append((script, refused(ended)))
        ended = faults.wait(pid, folder / "log.txt")
        for script, outcome in outcomes:
            if outcome not in (None, "refused"):
                return f"{outcome} ({script})"
        if ended.code:
            return worded(ended) or f"lost: {ended.printed[-2000:]}"
        # a reader may have scored the run too, and set earlier scores aside
        return self.judge.compared(folder, settings, ["evaluation/quick/superseded/"])

    def servers(self) -> Iterator[Case]:
        """Log to a W&B server that is away, or that is none."""
        for kind in surroundings.SERVERS:
            yield f"W&B server {kind}", lambda f, k=kind: self._logged(f, k)

    def _logged(self, folder: Path, kind: str) -> str:
        (folder / "without").mkdir()
        start = time.monotonic()
        faults.run("train.py", TRAIN, folder / "without")
        without = time.monotonic() - start
        with surroundings.server_that(kind) as url:

            def logged_in() -> None:
                os.environ.update(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=url)
                os.environ.pop("WANDB_MODE", None)

            ended = faults.run("train.py", [*TRAIN, "logger=wandb"], folder, logged_in)
        more = time.monotonic() - start - 2 * without
        if outcome := worded(ended):
            return outcome
        if ended.code:
            return f"lost: {ended.printed[-2000:]}"
        if "Weights & Biases" not in ended.printed:
            return "silent: no word of the server"
        if more > MOST_FOR_WANDB:
            return f"lost: {more:.1f} s of waiting"
        shutil.rmtree(folder / "without")
        outcome = self.judge.compared(folder, but=["run.json"])  # which names the logger
        return f"{outcome}: {more:.1f} s longer" if outcome == AS_IT_SHOULD_BE else outcome


def _usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
