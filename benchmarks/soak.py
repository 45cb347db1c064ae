"""A long run for the campaign: does it keep memory or open files?

600 steps with samples, scores and a checkpoint every 10, in a process that counts its resident
memory and its open files every half second. In the last half of the time neither may grow.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import faults

STEPS, EVERY = 600, 10
LONGEST = 900  # seconds
MOST_MIB = 8  # of growth, over 30 drawings; caches have filled up before
SETTINGS = (
    f"max_steps={STEPS}",
    f"samples.every_n_steps={EVERY}",
    f"evaluation.every_n_steps={EVERY}",
    f"checkpoint.every_n_steps={EVERY}",
)
Sample = tuple[float, float, int]  # seconds, MiB, open files


def outcome(folder: Path, settings: Sequence[str]) -> str:
    """Train for long in `folder`, and say whether memory or open files grew."""
    log = folder / "soak.csv"
    ended = faults.run(
        "train.py", [*settings, *SETTINGS], folder, lambda: _watch(log), seconds=LONGEST
    )
    if ended.code:
        return f"lost: {ended.printed[-2000:]}"
    samples = _read(log)
    middle, end = samples[len(samples) // 3 : len(samples) // 2], samples[-len(samples) // 6 : -4]
    grown = median(s[1] for s in end) - median(s[1] for s in middle)
    opened = median(s[2] for s in end) - median(s[2] for s in middle)
    print(f"soak: {len(samples)} samples, {grown:+.1f} MiB, {opened:+.0f} open files", flush=True)
    if grown > MOST_MIB or opened > 0:
        return f"silent: {grown:+.1f} MiB and {opened:+.0f} open files in the last half"
    return faults.AS_IT_SHOULD_BE


def _watch(log: Path) -> None:
    """Write this process's memory and open files into `log` from now on."""
    page = resource.getpagesize()

    def write() -> None:
        with log.open("w", buffering=1) as file:
            while True:
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20
                opened = len(os.listdir("/proc/self/fd"))
                file.write(f"{time.monotonic():.1f},{resident:.1f},{opened}\n")
                time.sleep(0.5)

    threading.Thread(target=write, daemon=True).start()


def _read(log: Path) -> list[Sample]:
    rows = (line.split(",") for line in log.read_text().splitlines())
    return [(float(a), float(b), int(c)) for a, b, c in rows]
