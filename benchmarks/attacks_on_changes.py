"""Attacks on runs that change: a finished run is extended, trained otherwise or scored again."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import attacked_run as attacked
import faults
from attacked_run import BESIDE, CHANGED, EVALUATE, EXTENDED
from attacks_on_processes import ProcessAttacks
from faults import AS_IT_SHOULD_BE
from judging import NOT_APPLICABLE, Case, Judge, is_defect, refused, worded

# other settings of evaluate.py than the run was scored with
RESCORED = (
    ("evaluation.metrics=[clip_i]",),
    ("evaluation.images_per_prompt=2",),
    ("num_inference_steps=2",),
    ("photos=cache/rendered",),
    ("evaluation=recontext", "evaluation.images_per_prompt=1"),
)
RESCORED_BOUNDARIES = 40  # more than an evaluation has, so that some cases are not reached


class ChangeAttacks:
    """Cases that kill a finished run while it becomes another one."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.processes = judge, ProcessAttacks(judge)

    def extended(self) -> Iterator[Case]:
        """Train a finished run for longer, and kill it at every boundary."""
        return self._changes("extend", EXTENDED)

    def changed(self) -> Iterator[Case]:
        """Train other weights in the folder of a finished run, and kill it at every boundary."""
        return self._changes("change", CHANGED)

    def _changes(self, word: str, settings: Sequence[str]) -> Iterator[Case]:
        for number in range(self.judge.untouched.boundaries(settings)):
            name = f"{word}, killed {_when(number)} boundary {number}"
            yield name, lambda f, n=number: self._killed(f, n, settings)

    def _killed(self, folder: Path, number: int, settings: Sequence[str]) -> str:
        untouched = self.judge.untouched
        untouched.copy(folder)
        outcome = self.processes.kill(folder, number, _when(number), settings)
        if outcome is not None:
            return outcome
        untouched.copy(folder / BESIDE, ["run"])
        outcome = self.judge.shown(folder, settings)
        return outcome if is_defect(outcome) else self._goes_on(folder, settings)

    def _goes_on(self, folder: Path, settings: Sequence[str]) -> str:
        shutil.rmtree(folder / BESIDE)
        outcome = self.judge.finishes(folder, settings)
        return f"{outcome} (finished)" if is_defect(outcome) else outcome

    def rescored(self) -> Iterator[Case]:
        """Score a run with other settings, whole and killed: its earlier scores are kept."""
        draw = random.Random(5)
        for line in RESCORED:
            numbers = sorted(draw.sample(range(RESCORED_BOUNDARIES), 8))
            for number in (None, *numbers):
                where = "" if number is None else f", killed {_when(number)} boundary {number}"
                name = f"rescore with {' '.join(line)}{where}"
                yield name, lambda f, x=line, n=number: self._rescored(f, x, n)

    def _rescored(self, folder: Path, line: Sequence[str], number: int | None) -> str:
        self.judge.untouched.copy(folder)
        before, arm = attacked.means(folder), None
        if "photos=cache/rendered" in line:
            (place,) = [p for p in folder.glob("cache/rendered/*") if p.is_dir()]
            (place / "04.png").unlink()
            line = [f"photos={place}"]
        if number is not None:
            arm = lambda: faults.at_boundary(number, _when(number))  # noqa: E731
        ended = faults.run("evaluate.py", [*EVALUATE, *line], folder, arm)
        if number is not None and ended.code != -signal.SIGKILL:
            return worded(ended) or f"{NOT_APPLICABLE}: it ended before, with {ended.code}"
        if number is None and (outcome := refused(ended)):
            return outcome
        if lost := before - attacked.means(folder):
            return f"silent: earlier scores are gone: {sorted(lost)[:2]}"
        again = faults.run("evaluate.py", [*EVALUATE, *line], folder)
        if outcome := refused(again):
            return outcome
        lost = before - attacked.means(folder)
        return f"silent: earlier scores are gone: {sorted(lost)[:2]}" if lost else AS_IT_SHOULD_BE


def _when(number: int) -> str:
    return "after" if number % 2 else "before"
