"""Attacks on files: what a run and its cache hold is damaged, and used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from attacked_run import ALONE, BESIDE, EXTENDED, TRAIN
from damages import DAMAGES, damage
from faults import AS_IT_SHOULD_BE
from judging import NOT_APPLICABLE, Case, Judge, is_defect

LOGS = ("metrics.csv", "curve.csv")


class FileAttacks:
    """Cases that damage a file in one way, and use it."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def cached(self) -> Iterator[Case]:
        """Damage every file of the cache in every way, and train with it.

        A training that is shared is taken over before anything else in the cache is read, so the
        rest is used by runs that share none too.
        """
        for number, (name, kind) in enumerate(self._damages("cache")):
            if name.parts[1] == "trained":
                uses = [(TRAIN, "")]
            else:  # three in four without sharing
                uses = [(ALONE, ", reuse=off")] + ([(TRAIN, "")] if number % 3 == 0 else [])
            for settings, more in uses:
                case = (name, kind, settings)
                yield f"damage {name} {kind}{more}", lambda f, c=case: self._cached(f, *c)

    def _cached(self, folder: Path, name: Path, kind: str, settings: tuple[str, ...]) -> str:
        if not self._damage(folder, name, kind):
            return NOT_APPLICABLE
        shutil.rmtree(folder / "run")
        return self.judge.trained(folder, settings, name)

    def used(self) -> Iterator[Case]:
        """Damage every file of a run in every way, and draw with, score, report on or resume it."""
        for name, kind in self._damages("run"):
            yield f"damage {name} {kind}", lambda f, n=name, k=kind: self._used(f, n, k)

    def _used(self, folder: Path, name: Path, kind: str) -> str:
        if not self._damage(folder, name, kind):
            return NOT_APPLICABLE
        if name.parts[1] == "model":
            return self.judge.drawn(folder)
        outcome = AS_IT_SHOULD_BE
        resumes = name.parts[1] in ("checkpoints", ".hydra")
        if not resumes:
            outcome = self._read(folder, name)
        if is_defect(outcome) or not (resumes or name.name in LOGS):
            return outcome
        for part in ("run", "cache"):  # as evaluate.py has changed them
            shutil.rmtree(folder / part)
        self._damage(folder, name, kind)
        shutil.rmtree(folder / "run" / "model")  # so that it has to go on
        return self.judge.trained(folder, TRAIN, name)

    def _read(self, folder: Path, name: Path) -> str:
        """Report on a damaged run with a whole one beside it, then score it."""
        beside = folder / BESIDE
        self.judge.untouched.copy(beside, ["run"])
        outcome = self.judge.reported(folder, name)
        shutil.rmtree(beside)
        if is_defect(outcome):
            return f"{outcome} (report.py)"
        outcome = self.judge.scored(folder)
        return f"{outcome} (evaluate.py)" if is_defect(outcome) else outcome

    def repeated(self) -> Iterator[Case]:
        """Damage every file of a finished run in every way, and give its command again."""
        for name, kind in self._damages("run"):
            yield f"repeat {name} {kind}", lambda f, n=name, k=kind: self._repeated(f, n, k)

    def _repeated(self, folder: Path, name: Path, kind: str) -> str:
        if not self._damage(folder, name, kind):
            return NOT_APPLICABLE
        return self.judge.trained(folder, TRAIN, name)

    def extended(self) -> Iterator[Case]:
        """Damage a finished run's logs, record and checkpoints, and train it for longer."""
        for name, kind in self._damages("run"):
            if name.name in (*LOGS, "run.json") or name.parts[1] == "checkpoints":
                yield f"extend {name} {kind}", lambda f, n=name, k=kind: self._extended(f, n, k)

    def _extended(self, folder: Path, name: Path, kind: str) -> str:
        if not self._damage(folder, name, kind):
            return NOT_APPLICABLE
        return self.judge.trained(folder, EXTENDED, name)

    def _damages(self, part: str) -> list[tuple[Path, str]]:
        """List every file of the run or the cache with every damage, in a fixed, mixed order."""
        whole = self.judge.untouched.whole
        paths = sorted(p for p in (whole / part).rglob("*") if p.is_file() and p.suffix != ".lock")
        pairs = [(path.relative_to(whole), kind) for path in paths for kind in DAMAGES]
        named = [(n, k) for n, k in pairs if n.name != ".lock"]
        return random.Random(4).sample(named, len(named))

    def _damage(self, folder: Path, name: Path, kind: str) -> bool:
        """Copy the whole run and its cache, and damage one file; tell whether it differs."""
        untouched = self.judge.untouched
        untouched.copy(folder)
        return damage(folder / name, kind, untouched.another(name))
