"""Kill a sweep at random moments, start it again each time, and compare the tables at the end.

    python benchmarks/sweep_kills.py [--kills 10] [--seed 0] [--out docs/results/sweep_kills.md]

One sweep of four short runs of the embedded model is left alone. Others, each with a cache of its
own, are killed by SIGKILL at a random moment and started again with `resume_sweep=DIR`, until so
many kills have happened and each sweep has ended. Their `runs.csv` must be equal in everything but
seconds and memory, and no finished run may be finished again. Every start is a fork of this
process, which has imported the program, so that most kills fall into the runs' own work.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import faults

from dreambooth.cli import startup
from dreambooth.cli.main import prepare_environment
from dreambooth.files import read_csv
from dreambooth.study.finished.sweeps import SWEEP, SweepPlan, find_unfinished

with startup.postponed_imports():
    faults.import_rooms("cli.commands", "cli.configuration.specs")
    faults.import_rooms("study.page.write", "study.tables", "training.job")

RUNS = 4
SETTINGS = (
    "-m",
    "subject=dog,cat",
    "seed=0,1",
    "ppl=false",
    "max_steps=6",
    "checkpoint.every_n_steps=2",
    "samples.every_n_steps=3",
    "samples.seeds=[0]",
    "sampling.num_inference_steps=4",
    "evaluation.images_per_prompt=1",
    "evaluation.class_images=2",
    "evaluation.metrics=[dino,clip_t,pres]",
    "logger=csv",
    "trainer=cpu",
)
TIMES = ("seconds", "memory_gib")


@dataclass
class Sweep:
    """A sweep in a folder of its own, with what happened to it."""

    folder: Path
    kills: list[tuple[float, str]] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)  # run => inode of its record
    repeated: int = 0

    def start(self, seconds: float | None = None) -> bool:
        """Start it, or go on with it; kill it after so many seconds. Tell whether it ended."""
        new = [*SETTINGS, "hydra.sweep.dir=sweep", "cache_dir=cache"]
        known = (self.folder / "sweep" / SWEEP).exists()
        arguments = ["resume_sweep=sweep"] if known else new
        process, end = faults.start("train.py", arguments, self.folder), time.monotonic()
        end += faults.LONGEST if seconds is None else seconds
        while not (ended := os.waitpid(process, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
                ended = os.waitpid(process, 0)
                break
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(ended[1])
        if code:
            assert seconds is not None and code == -signal.SIGKILL, self.folder / "log.txt"
            self.kills.append((seconds, self.state()))
        self.look()
        return not code

    def look(self) -> None:
        """Note which runs are finished, and whether one was finished a second time."""
        open_runs = {run.name for run in find_unfinished(self.folder / "sweep")}
        for path in (self.folder / "sweep").glob("*/run.json"):
            if path.parent.name not in open_runs:
                before = self.finished.setdefault(path.parent.name, path.stat().st_ino)
                self.repeated += before != path.stat().st_ino

    def state(self) -> str:
        """Say what is on the disk, in words."""
        sweep = self.folder / "sweep"
        if not (sweep / SWEEP).exists():
            return "nothing was started"
        planned = [job["folder"] for job in SweepPlan.read(sweep).jobs]
        states = {run.name: run.state for run in find_unfinished(sweep)}
        done = sum(name not in states for name in planned)
        begun = [sweep / name for name in planned if states.get(name) == "unfinished"]
        what = f"{done} of {len(planned)} runs finished"
        if not begun:
            return what
        steps = [path.stem for path in begun[0].glob("checkpoints/*/*.ckpt")]
        if (begun[0] / "run.json").exists():
            return f"{what}, one exported"
        return f"{what}, one at {max(steps)}" if steps else f"{what}, one before its checkpoints"

    def table(self) -> list[dict[str, str]]:
        """Read the table that it ended with, without the columns of costs."""
        rows = read_csv(self.folder / "sweep/runs.csv")
        return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def page(whole: Sweep, took: float, killed: list[Sweep], arguments: list[str]) -> str:
    """Write the results as Markdown."""
    equal = sum(sweep.table() == whole.table() for sweep in killed)
    kills = [(number, *kill) for number, sweep in enumerate(killed, 1) for kill in sweep.kills]
    lines = [
        "# Sweeps killed at random moments",
        "",
        f"A sweep of {RUNS} runs of the embedded model (2 subjects x 2 seeds, 6 steps) takes "
        f"{took:.0f} s",
        "here when nobody stops it, in a process that has imported the program. The same sweep is",
        "killed by SIGKILL at moments drawn uniformly, and started again each time with",
        "`resume_sweep=DIR`. Once it has ended another one begins, until there were "
        f"{len(kills)} kills.",
        "",
        "```",
        " ".join(["python benchmarks/sweep_kills.py", *arguments]),
        "```",
        "",
        "- sweeps whose table equals that of the one left alone, but for seconds and memory: "
        f"{equal} of {len(killed)}",
        f"- finished runs that were finished again: {sum(sweep.repeated for sweep in killed)}",
        "",
        "| kill | sweep | after s | on the disk |",
        "|---|---|---|---|",
    ]
    for count, (number, seconds, state) in enumerate(kills, 1):
        lines.append(f"| {count} | {number} | {seconds:.1f} | {state} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    prepare_environment()
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=faults.ROOT / "docs/results/sweep_kills.md")
    chosen, draw = parser.parse_args(), random.Random()
    draw.seed(chosen.seed)
    with tempfile.TemporaryDirectory() as root:

        def sweep() -> Sweep:
            return Sweep(Path(tempfile.mkdtemp(dir=root)))

        whole, began = sweep(), time.monotonic()
        assert whole.start()
        took, killed = time.monotonic() - began, [sweep()]
        while sum(len(each.kills) for each in killed) < chosen.kills:
            if killed[-1].start(draw.uniform(1, took)):
                killed.append(sweep())
        while not killed[-1].start():
            pass
        text = page(whole, took, killed, [f"--kills {chosen.kills}", f"--seed {chosen.seed}"])
        differ = [each for each in killed if each.table() != whole.table()]
    print(text)
    chosen.out.write_text(text)
    sys.exit(1 if differ or any(each.repeated for each in killed) else 0)


if __name__ == "__main__":
    main()
