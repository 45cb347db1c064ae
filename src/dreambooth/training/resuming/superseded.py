"""Scores and curves of other weights than a run exports now, kept under those weights' hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.evaluation.write import SCORES, SUPERSEDED, move
from dreambooth.records import read_record
from dreambooth.weights_files import content_hash

CURVE = ("curve.png", "curve.csv")  # as SCORES: the last one tells whether they are there


def set_aside(run: Path, export: str, before: str | None, has_curve: bool) -> list[Path]:
    """Move what was scored of other weights to `superseded/<hash>/`, before the record is of these.

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
    for metrics in sorted(run.glob(f"evaluation/*/{SCORES[-1]}")):
        of = _scored(metrics) or before
        if of is not None and of != export:
            files = (metrics.with_name(name) for name in SCORES)
            moved += move(files, run, run / SUPERSEDED / of)
    has_old = not has_curve and (run / CURVE[-1]).exists()
    if has_old and before is not None and before != export:
        moved += move((run / name for name in CURVE), run, run / SUPERSEDED / before)
    return moved


def bring_back(run: Path, export: str) -> None:
    """Bring back the scores and the curve of the weights `export`, where there are no others.

    Only once the record is of these weights: until then it says that a curve is of others.
    """
    kept = run / SUPERSEDED / export
    for folder in sorted(kept.glob("evaluation/*")):
        if not (run / folder.relative_to(kept) / SCORES[-1]).exists():
            move((folder / name for name in SCORES), kept, run)
    if not (run / CURVE[-1]).exists():
        move((kept / name for name in CURVE), kept, run)


def set_curve_aside(run: Path) -> None:
    """Move the curve of an earlier training away, where a new one begins that has none."""
    move((run / name for name in CURVE), run, run / SUPERSEDED / (weights_of_run(run) or "stopped"))


def weights_of_run(run: Path) -> str | None:
    """Return the hash of what a run has exported; None if it has exported nothing.

    The record knows it longest: it changes after the model, the scores and the curve.
    """
    try:
        recorded = read_record(run / "run.json").get("weights")
    except UserError:
        recorded = None
    is_there = any((run / "model").glob("*"))
    return recorded or (content_hash(run / "model") if is_there else None)


def identity(hashes: Mapping[str, str]) -> str:
    """Return the hash that names weights, of those in their provenance."""
    return hashes.get("export") or hashes["trained"]


def _scored(metrics: Path) -> str | None:
    """Read which weights a metrics.json is of."""
    try:
        return identity(json.loads(metrics.read_text("utf-8"))["provenance"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
