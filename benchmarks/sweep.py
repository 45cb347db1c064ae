"""What sharing saves in a sweep: the learning-rate grid as one sweep, and its runs each alone.

    python benchmarks/sweep.py [--alone 12] [--work DIR] [--out DIR] [key=value ...]

`python train.py experiment=learning_rate_grid` (72 runs: 8 trainings, each scored after three
numbers of steps with three samplers) runs once as it is, with an empty cache. Then some of its runs
run alone, each a command of its own with `reuse=off` and an empty cache; their mean stands for all:

  each alone            the whole command: start-up, class images, training, scores
  one sweep, reuse=off  without the start-up, and with the class images once, computed from the
                        costs that the same runs recorded

Further key=value pairs go to train.py, for both ways. What is there in --work is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
from omegaconf import OmegaConf

from dreambooth.files import write_json
from dreambooth.metrics.aggregate import bootstrap_interval

Record = dict[str, Any]


def timed(folder: Path, arguments: Sequence[str]) -> float:
    """Run train.py with a cache of its own in `folder`; return its seconds, kept in `folder`."""
    kept = folder / "seconds.json"
    if kept.exists():
        return json.loads(kept.read_text())
    shutil.rmtree(folder, ignore_errors=True)  # a benchmark that was stopped
    cache = f"cache_dir='{folder / 'cache'}'"
    seconds = commands.run("train.py", ["logger=csv", cache, *arguments])["whole"]
    write_json(kept, seconds)
    shutil.rmtree(folder / "cache")
    return seconds


def records(folder: Path) -> dict[Path, Record]:
    """Read the records of the finished runs below a folder."""
    return {path.parent: json.loads(path.read_text()) for path in folder.rglob("run.json")}


def spread(runs: Sequence[Path], number: int) -> list[Path]:
    """Choose `number` runs at equal distances, a little later each time, so that no setting hides.

    Without the shift, every choice would have the same value of the setting that varies fastest.
    """
    distance = len(runs) / number
    shifts = 3 if distance >= 3 else 1
    return [runs[int(i * distance) + i % shifts] for i in range(number)]


def overrides(run: Path) -> list[str]:
    """Read the overrides that a sweep gave one of its runs."""
    given = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "overrides.yaml"))
    assert isinstance(given, list)
    kept = [str(each) for each in given]
    return [each for each in kept if not each.startswith(("cache_dir=", "logger=", "experiment="))]


def class_images(record: Record) -> float:
    """Seconds that a run drew and encoded class images."""
    stages = record["costs"]["stages"]
    return sum(stages[s]["seconds"] for s in ("class_images", "class_latents") if s in stages)


def trained_steps(record: Record) -> int:
    """Optimizer steps that a run itself made."""
    phases = (cost for name, cost in record["costs"].items() if name.startswith("phase_"))
    return sum(phase["steps"] for phase in phases)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def compare(shared: float, sweep: Sequence[Record], alone: Sequence[tuple[float, Record]]) -> str:
    """Compare a sweep of `shared` seconds with some of its runs alone; return a table."""
    total, source = len(sweep), f"{len(alone)} of {len(sweep)} runs, extrapolated"
    commands = [seconds for seconds, _ in alone]
    inside = [record["costs"]["seconds"] - class_images(record) for _, record in alone]
    once = max(class_images(record) for _, record in alone)
    steps = round(total * statistics.mean(trained_steps(record) for _, record in alone))
    each = total * statistics.mean(commands)

    def row(way: str, seconds: float, interval: str, steps: int, source: str) -> dict[str, Any]:
        return {
            "way": way,
            "seconds": f"{seconds:.0f}",
            "95 % interval": interval,
            "share of each alone": f"{seconds / each:.2f}",
            "optimizer steps": steps,
            "from": source,
        }

    rows = [row("one sweep, shared", shared, "", sum(map(trained_steps, sweep)), "all, measured")]
    for way, seconds, more in (("one sweep, reuse=off", inside, once), ("each alone", commands, 0)):
        bounds = bootstrap_interval(seconds, [str(i) for i in range(len(seconds))], seed=0)
        interval = " to ".join(f"{total * bound + more:.0f}" for bound in bounds or ())
        whole = total * statistics.mean(seconds) + more
        rows.append(row(way, whole, interval, steps, source))
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alone", type=int, default=12, help="how many runs run alone")
    parser.add_argument("--work", type=Path, default=Path("outputs/benchmark_sweep"))
    parser.add_argument("--out", type=Path, help="folder for sweep.md and sweep.json")
    parser.add_argument("options", nargs="*", help="key=value for train.py")
    args = parser.parse_args()
    work = args.work.absolute()
    grid = ["experiment=learning_rate_grid", f"hydra.sweep.dir='{work / 'shared'}'"]
    shared = timed(work / "shared", [*grid, "hydra.sweep.subdir=${hydra.job.num}", *args.options])
    sweep = records(work / "shared")
    runs = sorted(sweep, key=lambda run: int(run.name))
    alone = []
    for number, run in enumerate(spread(runs, min(args.alone, len(runs)))):
        folder = work / f"alone-{number}"
        own = ["experiment=learning_rate_grid", "hydra.mode=RUN", "reuse=off", *overrides(run)]
        seconds = timed(folder, [*own, f"hydra.run.dir='{folder / 'run'}'"])
        alone.append((seconds, records(folder)[folder / "run"]))
        print(f"alone {number}: {seconds:.1f} s, {' '.join(overrides(run))}", flush=True)
    text = compare(shared, list(sweep.values()), alone)
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "sweep.md").write_text(text)
        write_json(args.out / "sweep.json", {"shared": shared, "alone": [s for s, _ in alone]})


if __name__ == "__main__":
    main()
