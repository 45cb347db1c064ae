"""The attacks on a run: every case is a fault, and says what became of it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import faults
import soak
import wrong_input
from attacked_run import TRAIN, Untouched
from attacks_on_changes import ChangeAttacks
from attacks_on_files import FileAttacks
from attacks_on_processes import ProcessAttacks
from faults import AS_IT_SHOULD_BE
from judging import Case, Judge


class Attacks:
    """The cases of every kind, in a fixed order."""

    def __init__(self, untouched: Untouched) -> None:
        judge = Judge(untouched)
        processes, files, changes = ProcessAttacks(judge), FileAttacks(judge), ChangeAttacks(judge)
        self.kinds: dict[str, Callable[[], Iterable[Case]]] = {
            "kill before": lambda: processes.kills("before"),
            "kill after": lambda: processes.kills("after"),
            "full disk": processes.full_disks,
            "filled disk": processes.filled_disks,
            "race": processes.races,
            "readers": processes.readers,
            "signal": processes.signals,
            "W&B": processes.servers,
            "damaged cache": files.cached,
            "damaged run": files.used,
            "damaged and repeated": files.repeated,
            "damaged and extended": files.extended,
            "extended": changes.extended,
            "changed": changes.changed,
            "rescored": changes.rescored,
            "values": self.values,
            "trained values": self.trained_values,
            "photo": self.photos,
            "soak": self.soaks,
        }

    def values(self) -> Iterator[Case]:
        """Set every key of train.py to every wrong kind of value."""
        for line in wrong_input.command_lines():
            yield f"values {line}", lambda f, one=line: wrong_input.compose_line(one)

    def trained_values(self) -> Iterator[Case]:
        """Train with command lines of wrong values, some of which are accepted."""
        lines = list(wrong_input.command_lines())
        for line in random.Random(3).sample(lines, 400):
            yield f"trained values {line}", lambda f, one=line: self._trained(f, one)

    def _trained(self, folder: Path, line: str) -> str:
        ended = faults.run("train.py", [*TRAIN, line], folder, seconds=60)
        if ended.code == -signal.SIGALRM and "Traceback" not in ended.printed:
            return "at work"
        if ended.code == 2:
            said = "error: " in ended.printed and "Traceback" not in ended.printed
            return "refused" if said else f"traceback: {ended.printed[-2000:]}"
        return f"traceback: {ended.printed[-2000:]}" if ended.code else AS_IT_SHOULD_BE

    def photos(self) -> Iterator[Case]:
        """Read odd photos."""
        for number in range(240):
            yield f"photo {number}", lambda f, n=number: wrong_input.read_photo(f, n)

    def soaks(self) -> Iterator[Case]:
        """Train for long, with samples and scores."""
        yield f"soak of {soak.STEPS} steps", lambda f: soak.outcome(f, TRAIN)
