"""Scores of other weights than a run exports now: kept under the hash of what they scored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = "superseded"
SCORES = ("metrics.json", "scores.csv")
CURVE = ("curve.csv", "curve.png")


def set_aside(run: Path, export: str, before: str | None, has_curve: bool) -> list[Path]:
    """Move what was scored of other weights to `superseded/<hash>/`; bring back what is of these.

    Scores say themselves what they are of. Those that do not, and the curve, are of what the
    run had exported before.

    Args:
        run: the run's folder.
        export: the hash of what the run exports now.
        before: the hash of its earlier export, None if there was none.
        has_curve: the run has written a curve of its own, which stays.

    Returns:
        what was moved away, relative to the run's folder.
    """
    moved = []
    for folder in sorted(path for path in run.glob("evaluation/*") if path.is_dir()):
        of = _scored(folder / "metrics.json") or before
        if of is not None and of != export:
            moved += _move((folder / name for name in SCORES), run, run / FOLDER / of)
    if not has_curve and before is not None and before != export:
        moved += _move((run / name for name in CURVE), run, run / FOLDER / before)
    _restore(run, run / FOLDER / export)
    return moved


def _scored(metrics: Path) -> str | None:
    """Read which weights a metrics.json is of."""
    try:
        provenance = json.loads(metrics.read_text("utf-8"))["provenance"]
        return provenance.get("export") or provenance["trained"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _move(files: Iterable[Path], run: Path, target: Path) -> list[Path]:
    moved = []
    for file in files:
        if file.exists():
            name = file.relative_to(run)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target / name)
            moved.append(name)
    return moved


def _restore(run: Path, kept: Path) -> None:
    """Bring back the scores of these weights, where there are no others."""
    for folder in sorted(kept.glob("evaluation/*")):
        own = run / folder.relative_to(kept)
        if not any((own / name).exists() for name in SCORES):
            _move((folder / name for name in SCORES), kept, run)
