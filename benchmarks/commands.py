"""Run a script in a fresh process, and time it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dreambooth.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def run(
    script: str | Path, arguments: Sequence[str], folder: Path = ROOT, tree: Path = ROOT
) -> dict[str, float]:
    """Run a script such as train.py in `folder`, with the package of `tree`, W&B offline.

    Returns:
        seconds: `whole`, and `cpu`, which depends less on what else the machine does.

    Raises:
        UserError: it failed; says how.
    """
    command = [sys.executable, str(tree / script), *arguments]
    start, cpu = time.monotonic(), _cpu_seconds()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    whole = time.monotonic() - start
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-2000:]}")
    return {"whole": whole, "cpu": _cpu_seconds() - cpu}


def write_page(path: Path, text: str) -> None:
    """Write a page of results; one that is there keeps what stands below its first heading `##`."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    _, heading, rest = before.partition("\n## ")
    path.write_text(text + heading + rest, encoding="utf-8")


def _cpu_seconds() -> float:
    """Return what finished child processes have computed; other work on the machine leaves it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
