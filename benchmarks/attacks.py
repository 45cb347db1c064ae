"""The attacks on a run: every case is a fault, and says what became of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attacked_run as attacked
import faults
import soak
import wrong_input
from attacked_run import EVALUATE, GENERATE, REPORT, TRAIN, Untouched, differing
from faults import AS_IT_SHOULD_BE

from dreambooth.study.finished.runs import find_runs

# what a case may end with, before a colon and more words; the first three are no defects
OUTCOMES = (AS_IT_SHOULD_BE, "refused", "at work", "traceback", "silent", "lost")
Case = tuple[str, Callable[[Path], str]]  # its name, and what tries it in an empty folder
MOST_FOR_WANDB = 7  # seconds that a server which is away may cost: 1 at the start, 5 at the end


def is_defect(outcome: str) -> bool:
    """Tell whether something is wrong."""
    return outcome.partition(":")[0] not in OUTCOMES[:3]


class Attacks:
    """The cases of every kind, in a fixed order."""

    def __init__(self, untouched: Untouched) -> None:
        self.untouched = untouched
        self.kinds: dict[str, Callable[[], Iterable[Case]]] = {
            "kill before": lambda: self.kills("before"),
            "kill after": lambda: self.kills("after"),
            "full disk": self.full_disks,
            "filled disk": self.filled_disks,
            "race": self.races,
            "signal": self.signals,
            "damage": self.damages,
            "W&B": self.servers,
            "values": self.values,
            "trained values": self.trained_values,
            "photo": self.photos,
            "soak": self.soaks,
        }

    # -- stopped ------------------------------------------------------------------------------

    def kills(self, when: str) -> Iterator[Case]:
        """Kill `before` or `after` every boundary; the same command must finish the run."""
        for number in range(self.untouched.boundaries):
            name = f"kill {when} boundary {number}"
            yield name, lambda f, n=number: self._stopped(f, n, when, faults.kill)

    def full_disks(self) -> Iterator[Case]:
        """Fail at every boundary as a full disk does."""
        for number in range(self.untouched.boundaries):
            name = f"full disk at boundary {number}"
            yield name, lambda f, n=number: self._stopped(f, n, "before", faults.fill_disk)

    def filled_disks(self) -> Iterator[Case]:
        """Fill a real disk at a boundary, so that a later write finds no room."""
        draw = random.Random(2)
        for number in range(60 if faults.can_mount() else 0):
            boundary = draw.randrange(self.untouched.boundaries)
            left = draw.choice((0, 4096, 100_000, 1_000_000, 20_000_000, 100_000_000))
            name = f"filled disk {number}, {left} bytes left at boundary {boundary}"
            yield name, lambda f, b=boundary, n=left: faults.on_own_disk(f, self._filled, b, n)

    def _filled(self, folder: Path, boundary: int, left: int) -> str:
        def arm() -> None:
            faults.at_boundary(boundary, "before", lambda *_: faults.fill(folder / "filler", left))

        first = faults.run("train.py", TRAIN, folder, arm, log="../log.txt")
        (folder / "filler").unlink(missing_ok=True)
        return self._worded(first) or self._finishes(folder)

    def _stopped(self, folder: Path, number: int, when: str, action: faults.Act) -> str:
        def arm() -> None:
            faults.at_boundary(number, when, action)

        return self._worded(faults.run("train.py", TRAIN, folder, arm)) or self._finishes(folder)

    def _worded(self, ended: faults.Ended) -> str | None:
        if ended.crashed:
            return f"traceback: {ended.printed[-2000:]}"
        if ended.printed.count(" is full") > 1:
            return f"traceback: said twice: {ended.printed[-2000:]}"
        return None

    def _finishes(self, folder: Path) -> str:
        """Run the command again, and compare with the run that nothing has touched."""
        if len(find_runs(folder)) > 1:
            return "silent: a phantom run"
        again = faults.run("train.py", TRAIN, folder)
        if again.code:
            return f"lost: {again.printed[-2000:]}"
        left = [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp-*")]
        if left:
            return f"silent: left {left[:3]}"
        return self._compared(folder)

    def _compared(self, folder: Path, but: Sequence[str] = ()) -> str:
        """Compare what a run has made with what the untouched run has, `but` for some files."""
        differ = differing(attacked.made(folder), self.untouched.made)
        differ = [name for name in differ if name not in but]
        if differ or len(find_runs(folder / "run")) != 1:
            return f"silent: {differ[:5]} differ"
        return AS_IT_SHOULD_BE

    # -- together -----------------------------------------------------------------------------

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
        bad = [each.printed[-2000:] for each in ended if each.code]
        if bad:
            return f"lost: {bad[0]}"
        outcomes = {self._compared(own) for own in list(jobs)[:2]}
        return next(iter(outcomes - {AS_IT_SHOULD_BE}), AS_IT_SHOULD_BE)

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
        if ended.code not in (0, 128 + number) and after > 0.5:
            return f"traceback: exit code {ended.code}: {ended.printed[-500:]}"
        if ended.code > 0 and "Stopped" not in ended.printed:
            return f"silent: ended with {ended.code} and without a word"
        return self._finishes(folder)

    def servers(self) -> Iterator[Case]:
        """Log to a W&B server that is away, or that is none."""
        for kind in faults.SERVERS:
            yield f"W&B server {kind}", lambda f, k=kind: self._logged(f, k)

    def _logged(self, folder: Path, kind: str) -> str:
        (folder / "without").mkdir()
        start = time.monotonic()
        faults.run("train.py", TRAIN, folder / "without")
        without = time.monotonic() - start
        with faults.server_that(kind) as url:

            def logged_in() -> None:
                os.environ.update(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=url)
                os.environ.pop("WANDB_MODE", None)

            ended = faults.run("train.py", [*TRAIN, "logger=wandb"], folder, logged_in)
        more = time.monotonic() - start - 2 * without
        if worded := self._worded(ended):
            return worded
        if ended.code:
            return f"lost: {ended.printed[-2000:]}"
        if "Weights & Biases" not in ended.printed:
            return "silent: no word of the server"
        if more > MOST_FOR_WANDB:
            return f"lost: {more:.1f} s of waiting"
        shutil.rmtree(folder / "without")
        outcome = self._compared(folder, but=["run.json"])  # which names the logger
        return f"{outcome}: {more:.1f} s longer" if outcome == AS_IT_SHOULD_BE else outcome

    # -- damaged ------------------------------------------------------------------------------

    def damages(self) -> Iterator[Case]:
        """Damage every file of a run and of its cache in every way, and use it."""
        whole = self.untouched.whole
        for path in sorted(p for p in whole.rglob("*") if p.is_file()):
            name = path.relative_to(whole)
            if name.parts[0] not in ("run", "cache") or path.suffix == ".lock":
                continue
            for kind in faults.DAMAGES:
                yield f"damage {name} {kind}", lambda f, n=name, k=kind: self._damaged(f, n, k)

    def _damaged(self, folder: Path, name: Path, kind: str) -> str:
        for part in ("run", "cache"):
            shutil.copytree(self.untouched.whole / part, folder / part)
        faults.damage(folder / name, kind, self.untouched.another(name))
        if name.parts[0] == "cache":
            shutil.rmtree(folder / "run")
            return self._used(folder, "train.py", TRAIN)
        if name.parts[1] == "model":
            return self._used(folder, "generate.py", GENERATE)
        needed = name.parts[1] in ("checkpoints", ".hydra")
        outcome = AS_IT_SHOULD_BE
        if not needed:
            for script, arguments in (("report.py", REPORT), ("evaluate.py", EVALUATE)):
                outcome = self._used(folder, script, arguments)
                if is_defect(outcome):
                    return f"{outcome} ({script})"
        if needed or name.name in ("curve.csv", "metrics.csv"):
            shutil.rmtree(folder / "run" / "model")
            return self._used(folder, "train.py", TRAIN, name)
        return outcome

    def _used(
        self, folder: Path, script: str, arguments: Sequence[str], name: Path | None = None
    ) -> str:
        """Use a damaged thing: it must be refused in one sentence, or nothing comes out wrong.

        Args:
            name: of a log; a line that names it says that its earlier rows are gone.
        """
        ended = faults.run(script, list(arguments), folder)
        if ended.crashed or ended.code not in (0, 2):
            return f"traceback: {ended.printed[-2000:]}"
        if ended.code == 2:
            lines = [line for line in ended.printed.splitlines() if line and line[0] != " "]
            words = lines[-1]  # indented lines say more of it
            return "refused" if words.startswith("error: ") else f"traceback: {words}"
        if script == "train.py":
            is_said = name is not None and f"{name.name} " in ended.printed
            return AS_IT_SHOULD_BE if is_said else self._compared(folder)
        if script == "generate.py":
            return _alike(attacked.pictures(folder / "drawn/images"), self.untouched.drawn)
        if script == "evaluate.py" or " unreadable " in ended.printed:
            return AS_IT_SHOULD_BE
        if not list(folder.glob("run/evaluation/*/metrics.json")):  # as of a run without scores
            return "silent: it shows scores" if "DINO" in ended.printed else AS_IT_SHOULD_BE
        return _alike(attacked.tables(folder), self.untouched.report)

    # -- wrong input --------------------------------------------------------------------------

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


def _alike(ours: attacked.Facts, theirs: attacked.Facts) -> str:
    differ = differing(ours, theirs)
    return f"silent: {differ[:5]} differ" if differ else AS_IT_SHOULD_BE


def _usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
