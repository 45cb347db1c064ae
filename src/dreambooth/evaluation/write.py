"""Write scores as scores.csv and metrics.json, and print them as a table."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.errors import UserError
from dreambooth.evaluation.record import Scores
from dreambooth.files import cache_key, file_hash, write_csv
from dreambooth.metrics.variants import lower_is_better
from dreambooth.records import read_record, read_table, write_record
from dreambooth.sampling.manifest import Item

log = logging.getLogger(__name__)

AGAIN = "score the run again with evaluate.py"
SUPERSEDED = "superseded"  # folder of scores that others have taken the place of
SCORES = ("scores.csv", "metrics.json")  # in the order in which they are moved
# what scores are of, in metrics.json, beside the metrics themselves
OF = ("provenance", "protocol", "references", "encoders", "subject", "gallery", "folder")
COLUMNS = tuple(field.name for field in fields(Item))  # of scores.csv, before the scores


def scores_folder(run: Path, evaluation: str) -> Path:
    """Return the folder of a run's evaluation: its images, scores.csv and metrics.json."""
    return run / "evaluation" / evaluation


def refuse_a_runs_scores(folder: Path) -> None:
    """Refuse to score a folder of images over the scores of a run's own evaluation.

    Raises:
        UserError: `folder` holds the scores of a run.
    """
    path = folder / "metrics.json"
    try:
        record = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError):
        return
    if "provenance" in record:
        raise UserError(
            f"{folder} holds the scores of a run's own evaluation: pass output_dir=DIR to write "
            "these beside them."
        )


def refuse_copies(images: Sequence[Path], photos: Sequence[Path]) -> None:
    """Refuse images that are photos, which would be compared with themselves.

    Raises:
        UserError: names the first image with the bytes of a photo.
    """
    known = {file_hash(path): path for path in photos}
    for path in images:
        if copied := known.get(file_hash(path)):
            raise UserError(
                f"{path} is the same file as the photo {copied}, and beside itself it would score "
                "1: take it out of the images; calibrate=true compares photos with photos."
            )


def write_scores(folder: Path, scores: Scores, record: Mapping[str, Any]) -> None:
    """Write `scores.csv`, one row per image, and `metrics.json`, the means and `record`.

    `metrics.json` is written last, so that a new one never stands beside an old table. Scores that
    are there, and that these do not replace, are kept in `superseded/<hash>`.
    """
    _keep_others(folder, record)
    names = dict.fromkeys(key for row in scores.rows for key in row if key not in COLUMNS)
    write_csv(folder / "scores.csv", scores.rows, [*COLUMNS, *names])
    record = {**record, "scores": scores.summary}
    write_record(folder / "metrics.json", record, ["scores.csv"])


def _keep_others(folder: Path, record: Mapping[str, Any]) -> None:
    """Move the scores of a folder away if they are of something else, or of more metrics."""
    try:
        earlier = read_record(folder / SCORES[-1])
    except UserError:  # none, or damaged
        return
    new = json.loads(json.dumps({key: record.get(key) for key in OF}))
    differ = [key for key in OF if earlier.get(key) != new[key]]
    known = {*record.get("metrics", ())}
    if not differ and {*earlier.get("metrics", ())} <= known:
        return
    kept = folder / SUPERSEDED / cache_key(**{key: earlier.get(key) for key in (*OF, "metrics")})
    move((folder / name for name in SCORES), folder, kept)
    log.info(
        "The earlier scores in %s are of other %s: moved to %s.",
        folder,
        " and ".join(differ or ["metrics"]),
        kept,
    )


def move(files: Iterable[Path], folder: Path, target: Path) -> list[Path]:
    """Move the files that there are to the same places in `target`; return those places."""
    names = [file.relative_to(folder) for file in files if file.exists()]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, target / name)
    return names


def read_scores(folder: Path) -> tuple[Scores, dict[str, Any]]:
    """Read what `write_scores` wrote: the scores, without their notes, and the record.

    Raises:
        UserError, ValueError, KeyError: files that are missing, cannot be read or have changed.
    """
    record = read_record(folder / "metrics.json")
    rows: list[dict[str, Any]] = []
    for row in read_table(folder / "scores.csv", record, AGAIN):
        scores = {k: float(v) for k, v in row.items() if k not in COLUMNS and v}
        seed = {"seed": int(row["seed"])} if row["seed"] else {}
        rows.append({**{key: row[key] for key in COLUMNS if key != "seed"}, **seed, **scores})
    return Scores(rows, record.pop("scores")), record


def print_scores(scores: Scores, title: str, references: str) -> None:
    """Print every metric with its interval, then the variant ids that define them.

    Args:
        references: which photos the images were compared with, in words.
    """
    table = Table(title=escape(title), title_justify="left")
    for name in ("metric", "score", "95 % interval", "photos (self-pairs too)"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=True)
    variants = Table.grid(padding=(0, 2))
    for variant, entry in scores.summary.items():
        if variant.startswith("real_ref."):
            continue
        sign = "↓" if lower_is_better(variant) else "↑"
        interval = entry["interval_95"]
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        real = _real_images(scores, variant)
        table.add_row(f"{entry['metric']} {sign}", f"{entry['mean']:.3f}", shown, real)
        variants.add_row(entry["metric"], variant, style="dim")
    console = Console()
    console.print(table)
    console.print(variants)
    for line in (f"References: {references}.", *scores.notes):
        console.print(line, style="dim", markup=False)


def _real_images(scores: Scores, variant: str) -> str:
    """Write the score of the photos among themselves, and with self-pairs: `0.774 (0.815)`."""
    plain = scores.summary.get(f"real_ref.{variant}.exclude_self")
    both = scores.summary.get(f"real_ref.{variant}.include_self")
    return f"{plain['mean']:.3f} ({both['mean']:.3f})" if plain and both else ""
