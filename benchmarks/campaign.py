"""Attack the program: kills, full disks, races, damaged files, wrong values, odd photos.

    python benchmarks/campaign.py [--seconds 600] [--only kills,damage] [--work DIR] [--out FILE]

Each case is a fault in a run of the embedded model, and what became of it. Cases are drawn in one
fixed order; what is done is kept in `DIR/cases.jsonl`, and a later call goes on after it, for so
many seconds. A page that is there keeps what stands below its first heading `##`. The table counts
cases by outcome: a *traceback* is an error without words, *silent* is another result without a
word, *lost* is a run that the same command cannot finish.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import faults
import soak
from PIL import Image

from dreambooth.cli import startup
from dreambooth.files import file_hashes
from dreambooth.study.finished.runs import find_runs

with startup.postponed_imports():
    from dreambooth.cli import main as cli

    faults.import_rooms("cli.commands", "cli.drawing.generate", "cli.scoring.evaluate")
    faults.import_rooms("study.tables", "training.job")
    import wrong_input

OUT = faults.ROOT / "docs/results/reliability.md"
TRAIN = (
    "max_steps=2",
    "batch_size=1",
    "checkpoint.every_n_steps=1",
    "prior.num_class_images=2",
    "prior.num_inference_steps=1",
    "sampling.num_inference_steps=1",
    "samples.seeds=[0]",
    "samples.prompts=['a {subject}']",
    "samples.every_n_steps=1",
    "evaluation.images_per_prompt=1",
    "evaluation.class_images=0",
    "evaluation.metrics=[dino]",
    "logger=csv",
    "trainer=cpu",
    "cache_dir=cache",
    "hydra.run.dir=run",
)
GENERATE = ("run=run", "prompts=['a {subject}']", "seeds=[0]", "output_dir=drawn")
OUTCOMES = (faults.AS_IT_SHOULD_BE, "refused", "traceback", "silent", "lost")
# what a run makes that another session must make alike; logs, pages and costs hold times, and a
# checkpoint counts the batches of its own session
SAME = ("model/", "samples/")
Case = tuple[str, Callable[[Path], str]]


def results(folder: Path) -> dict[str, str]:
    """Hash what a run has made, but for records that hold times."""
    files = file_hashes(folder / "run") if (folder / "run").is_dir() else {}
    kept = {k: v for k, v in files.items() if k.startswith(SAME) and not k.endswith(".json")}
    return {k: v for k, v in kept.items() if not k.endswith("manifest.csv") and "/." not in k}


class Campaign:
    """The cases, and what all of them compare with: a run that nothing has touched."""

    def __init__(self, work: Path) -> None:
        self.work, self.log = work, work / "cases.jsonl"
        self.whole, self.other = work / "whole", work / "other"
        for folder, more in ((self.whole, ()), (self.other, ("seed=1", "subject=cat"))):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                ended = faults.run("train.py", [*TRAIN, *more], folder, self._counting(folder))
                assert ended.code == 0, ended.printed
                (folder / "done").touch()
        self.boundaries = int((self.whole / "boundaries").read_text())

    def _counting(self, folder: Path) -> Callable[[], None]:
        """Count a run's boundaries into a file."""

        def count(number: int, when: str) -> None:
            (folder / "boundaries").write_text(str(number + 1))

        return lambda: faults.on_boundaries(count)

    # -- cases --------------------------------------------------------------------------------

    def cases(self) -> Iterator[Case]:
        """Yield all cases in one fixed order, of every kind in turn."""
        draw = random.Random(0)
        kinds = [list(kind()) for kind in self.kinds.values()]
        for cases in kinds:
            draw.shuffle(cases)
        while any(kinds):
            for cases in kinds:
                if cases:
                    yield cases.pop()

    @property
    def kinds(self) -> dict[str, Callable[[], Iterator[Case]]]:
        return {
            "kill": self.kills,
            "full disk": self.full_disks,
            "race": self.races,
            "signal": self.signals,
            "damage": self.damages,
            "W&B": self.servers,
            "values": self.values,
            "photo": self.photos,
            "soak": self.soaks,
        }

    def kills(self) -> Iterator[Case]:
        """Kill at every boundary, before and after it; the same command must finish the run."""
        for number in range(self.boundaries):
            for when in ("before", "after"):
                name = f"kill {when} boundary {number}"
                yield name, lambda f, n=number, w=when: self._stopped(f, n, w, faults.kill)

    def full_disks(self) -> Iterator[Case]:
        """Fail at every boundary as a full disk does."""
        for number in range(self.boundaries):
            name = f"full disk at boundary {number}"
            yield name, lambda f, n=number: self._stopped(f, n, "before", faults.fill_disk)

    def _stopped(self, folder: Path, number: int, when: str, action: faults.Act) -> str:
        first = faults.run(
            "train.py", TRAIN, folder, lambda: faults.at_boundary(number, when, action)
        )
        if first.crashed:
            return f"traceback: {first.printed[-2000:]}"
        if first.printed.count(" is full") > 1:
            return f"traceback: said twice: {first.printed[-2000:]}"
        if len(find_runs(folder)) > 1:
            return "silent: a phantom run"
        return self._finishes(folder)

    def _finishes(self, folder: Path) -> str:
        """Run the command again, and compare with the run that nothing has touched."""
        again = faults.run("train.py", TRAIN, folder)
        if again.code:
            return f"lost: {again.printed[-2000:]}"
        left = [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp-*")]
        if left:
            return f"silent: left {left[:3]}"
        return self._compared(folder)

    def _compared(self, folder: Path) -> str:
        ours, theirs = results(folder), results(self.whole)
        differ = [k for k in sorted(ours.keys() | theirs.keys()) if ours.get(k) != theirs.get(k)]
        if differ or len(find_runs(folder / "run")) != 1:
            return f"silent: {differ[:5]} differ"
        return OUTCOMES[0]

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
        return next(iter(outcomes - {OUTCOMES[0]}), OUTCOMES[0])

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
        with faults.server_that(kind) as url:

            def logged_in() -> None:
                os.environ.update(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=url)
                os.environ.pop("WANDB_MODE", None)

            ended = faults.run("train.py", [*TRAIN, "logger=wandb"], folder, logged_in)
        if ended.crashed:
            return f"traceback: {ended.printed[-2000:]}"
        if ended.code:
            return f"lost: {ended.printed[-2000:]}"
        if "Weights & Biases" not in ended.printed:
            return "silent: no word of the server"
        return self._compared(folder)

    def damages(self) -> Iterator[Case]:
        """Damage every file of a run and of its cache in every way, and use it."""
        for path in sorted(p for p in self.whole.rglob("*") if p.is_file()):
            name = path.relative_to(self.whole)
            if name.parts[0] not in ("run", "cache") or path.suffix == ".lock":
                continue
            for kind in faults.DAMAGES:
                yield f"damage {name} {kind}", lambda f, n=name, k=kind: self._damaged(f, n, k)

    def _damaged(self, folder: Path, name: Path, kind: str) -> str:
        for part in ("run", "cache"):
            shutil.copytree(self.whole / part, folder / part)
        faults.damage(folder / name, kind, self._another(name))
        if name.parts[0] == "cache":
            shutil.rmtree(folder / "run")
            return self._used(folder, "train.py", TRAIN)
        if name.parts[1] == "model":
            return self._used(folder, "generate.py", GENERATE)
        is_log = name.name in ("curve.csv", "metrics.csv")
        outcome = OUTCOMES[0]
        if name.parts[1] not in ("checkpoints", ".hydra"):
            for script, arguments in (("report.py", ["runs=."]), ("evaluate.py", EVALUATE)):
                outcome = self._used(folder, script, arguments)
                if outcome not in OUTCOMES[:2]:
                    return f"{outcome} ({script})"
        if is_log or name.parts[1] in ("checkpoints", ".hydra"):
            shutil.rmtree(folder / "run" / "model")
            return self._used(folder, "train.py", TRAIN)
        return outcome

    def _another(self, name: Path) -> Path | None:
        """Find a file of the same kind that is another run's, or another one of this run."""
        found = [p for p in self.other.rglob(f"*{name.suffix}") if p.is_file()]
        near = [p for p in found if p.parent.name == name.parent.name or p.name == name.name]
        return min(near or found, default=None, key=lambda p: p.name != name.name)

    def _used(self, folder: Path, script: str, arguments) -> str:
        ended = faults.run(script, list(arguments), folder)
        if ended.crashed or ended.code not in (0, 2):
            return f"traceback: {ended.printed[-2000:]}"
        if ended.code == 2:
            lines = [line for line in ended.printed.splitlines() if line and line[0] != " "]
            words = lines[-1]  # indented lines say more of it
            return "refused" if words.startswith("error: ") else f"traceback: {words}"
        if script == "train.py":
            return self._compared(folder)
        if script == "generate.py":
            return self._drawn_alike(folder)
        return OUTCOMES[0]

    def _drawn_alike(self, folder: Path) -> str:
        """Compare a picture with the one that the untouched run draws."""
        if not (self.whole / "drawn").exists():
            ended = faults.run("generate.py", GENERATE, self.whole)
            assert ended.code == 0, ended.printed
        pictures = [_pixels(f / "drawn") for f in (folder, self.whole)]
        return OUTCOMES[0] if pictures[0] == pictures[1] else "silent: it draws something else"

    def values(self) -> Iterator[Case]:
        """Set every key of train.py to every wrong kind of value."""
        for line in wrong_input.command_lines():
            yield f"values {line}", lambda f, one=line: wrong_input.compose_line(one)

    def photos(self) -> Iterator[Case]:
        """Read odd photos."""
        for number in range(240):
            yield f"photo {number}", lambda f, n=number: wrong_input.read_photo(f, n)

    def soaks(self) -> Iterator[Case]:
        """Train for long, with samples and scores."""
        yield f"soak of {soak.STEPS} steps", lambda f: soak.outcome(f, TRAIN)

    # -- the order of work --------------------------------------------------------------------

    def go_on(self, seconds: float, only: set[str]) -> None:
        """Try the next cases for so many seconds."""
        done, end = {case["name"] for case in self.done()}, time.monotonic() + seconds
        for name, attempt in self.cases():
            kind = next(kind for kind in self.kinds if name.startswith(f"{kind} "))
            if name in done or only and kind not in only:
                continue
            if time.monotonic() > end:
                return
            folder = self.work / "case"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            outcome = attempt(folder)
            with open(self.log, "a") as file:
                file.write(json.dumps({"kind": kind, "name": name, "outcome": outcome}) + "\n")
            if outcome not in OUTCOMES[:2]:
                print(f"{name}: {outcome}", flush=True)

    def done(self) -> list[dict[str, str]]:
        """Read the cases that have been tried."""
        return [json.loads(line) for line in self.log.open()] if self.log.exists() else []


EVALUATE = ("run=run", "evaluation.metrics=[dino]", "evaluation.class_images=0", "cache_dir=cache")
EVALUATE += ("evaluation.images_per_prompt=1",)


def _usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _pixels(folder: Path) -> list[bytes]:
    pictures = sorted((folder / "images").glob("*.png"), key=lambda p: p.name.rsplit("_", 1)[0])
    return [Image.open(path).tobytes() for path in pictures]


# -- the table --------------------------------------------------------------------------------


def page(campaign: Campaign, arguments: list[str]) -> str:
    """Write the results as Markdown."""
    done = campaign.done()
    counts = Counter((case["kind"], case["outcome"].partition(":")[0]) for case in done)
    lines = ["# Reliability: what was attacked, and what became of it", ""]
    lines += ["```", " ".join(["python benchmarks/campaign.py", *arguments]), "```", ""]
    lines += [
        "Each case is a fault in a run of the embedded model on a CPU (2 steps, class images,",
        f"samples, an export and a score; {campaign.boundaries} write boundaries).",
        "*As it should be*: the same command then gave the same weights and pictures to the last",
        "bit. *Refused*: one sentence, exit code 2. *Traceback*, *silent* (another result without",
        "a word) and *lost* (the command cannot finish the run) are defects. *Of*: the cases that",
        "there are; another call with the same `--work` goes on with those that were not tried.",
        "",
        "| fault | tried | of | " + " | ".join(OUTCOMES) + " |",
        "|---|" + "---|" * (len(OUTCOMES) + 2),
    ]
    for kind, cases in campaign.kinds.items():
        numbers = [counts[kind, outcome] for outcome in OUTCOMES]
        row = [kind, sum(numbers), len(list(cases())), *numbers]
        lines.append(f"| {' | '.join(map(str, row))} |")
    bad = [case for case in done if case["outcome"] not in OUTCOMES[:2]]
    if bad:
        lines += ["", "Defects:", ""]
        lines += [f"- {c['name']}: {' '.join(c['outcome'].split())[-300:]}" for c in bad]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="", help="kinds of faults, with commas")
    parser.add_argument("--work", type=Path, default=Path("campaign"))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    cli.prepare_environment()
    campaign = Campaign(chosen.work.absolute())
    campaign.go_on(chosen.seconds, {kind for kind in chosen.only.split(",") if kind})
    text = page(campaign, sys.argv[1:])
    print(text)
    commands.write_page(chosen.out, text)


if __name__ == "__main__":
    main()
