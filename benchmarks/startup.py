"""Seconds from the command to the first optimizer step, with and without postponed imports.

    python benchmarks/startup.py [--rounds 3]

Both ways run `train.py subject=dog` with class images and latents in a cache that a first run
fills, alternating, each in a fresh process. What differs is only whether libraries import at the
start what they do not need then (`dreambooth.cli.startup`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import os, sys
from contextlib import nullcontext
from dreambooth.cli import commands, startup
from dreambooth.cli.main import entry

def train(cfg):
    with nullcontext() if {eager} else startup.postponed_imports():
        from dreambooth.cli.configuration import specs
        from dreambooth.cli.refusals import processes
        from dreambooth.training import job, module
    step = module.DreamBooth.optimizer_step
    def first(self, *args, **kwargs):
        step(self, *args, **kwargs)
        print("FIRST", flush=True)
        os._exit(0)
    module.DreamBooth.optimizer_step = first
    return commands.train(cfg)

sys.argv = ["train.py", *{arguments!r}]
entry("train", train)
"""


def seconds_to_first_step(folder: Path, eager: bool) -> float:
    """Start a fresh process and time it until its first optimizer step is done."""
    arguments = [
        "subject=dog",
        "logger=csv",
        "evaluation=none",
        "samples.every_n_steps=0",
        f"cache_dir='{folder / 'cache'}'",
        f"hydra.run.dir='{tempfile.mkdtemp(dir=folder)}'",
    ]
    code = CHILD.format(eager=eager, arguments=arguments)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    if "FIRST" not in done.stdout:
        sys.exit(done.stderr)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        seconds_to_first_step(Path(folder), eager=False)  # fills the cache
        for _ in range(rounds):
            for eager in seconds:
                seconds[eager].append(seconds_to_first_step(Path(folder), eager))
    postponed, everything = (statistics.median(seconds[eager]) for eager in (False, True))
    print(f"postponed imports: {postponed:.2f} s to the first step")
    print(f"all imports at once: {everything:.2f} s")
    print(f"ratio: {postponed / everything:.2f} ({rounds} rounds, medians)")


if __name__ == "__main__":
    main()
