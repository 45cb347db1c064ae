"""Which versions of the program made the runs of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dreambooth.study.finished.scored_runs import ScoredRun

SHORT = 12  # digits of a commit
UNKNOWN = "a version that was not recorded"


def programs(runs: Sequence[ScoredRun]) -> str:
    """Name the commits that runs were made with, in a sentence; "" where none was recorded.

    Outside a git checkout a run records its version alone.
    """
    count = Counter(_program(run) for run in runs)
    if not set(count) - {UNKNOWN}:
        return ""
    if len(count) == 1:
        return f"Runs of {next(iter(count))}."
    listed = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    return f"Runs of several versions: {'; '.join(f'{name} ({n})' for name, n in listed)}."


def _program(run: ScoredRun) -> str:
    """Name a run's commit, else its version: `commit 64af78a05b73, changed`."""
    program = run.run.record.get("program") or {}
    if program.get("commit"):
        digits, _, changed = str(program["commit"]).partition(", ")
        return f"commit {digits[:SHORT]}" + (" with changes" if changed else "")
    return f"dreambooth {program['dreambooth']}" if program.get("dreambooth") else UNKNOWN
