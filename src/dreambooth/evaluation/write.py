"""Scores as a user meets them: scores.csv, metrics.json, a printed table."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.evaluation.score import Scores
from dreambooth.files import atomic, write_json

COLUMNS = ("set", "file", "prompt", "class_only", "seed")
LOWER_IS_BETTER = ("PRES",)


def scores_folder(run: Path, evaluation: str) -> Path:
    """Return the folder of a run's evaluation: its images, scores.csv and metrics.json."""
    return run / "evaluation" / evaluation


def write_scores(folder: Path, scores: Scores, record: dict) -> None:
    """Write `scores.csv`, one row per image, and `metrics.json`, the means and `record`.

    The table is written last, so whoever finds `metrics.json` finds both of one evaluation.
    """
    with atomic(folder / "scores.csv") as temporary, open(temporary, "w", newline="") as file:
        names = list(dict.fromkeys(key for row in scores.rows for key in row if key not in COLUMNS))
        writer = csv.DictWriter(file, [*COLUMNS, *names])
        writer.writeheader()
        writer.writerows(scores.rows)
    write_json(folder / "metrics.json", {**record, "scores": scores.summary})


def print_scores(scores: Scores, title: str, references: str) -> None:
    """Print every metric with its interval, then the variant ids that define them."""
    table = Table(title=escape(title), title_justify="left")
    for name in ("metric", "score", "95 % interval", "real (self-pairs too)"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=True)
    variants = Table.grid(padding=(0, 2))
    for variant, entry in scores.summary.items():
        if variant.startswith("real_ref."):
            continue
        sign = "↓" if entry["metric"] in LOWER_IS_BETTER else "↑"
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
    """`0.774 (0.815)`: the photos among themselves, and with self-pairs, under the same variant."""
    plain = scores.summary.get(f"real_ref.{variant}.exclude_self")
    both = scores.summary.get(f"real_ref.{variant}.include_self")
    return f"{plain['mean']:.3f} ({both['mean']:.3f})" if plain and both else ""


def summary_of(scores: Scores) -> dict[str, float]:
    """Return `score/<variant id>` => mean, for a logger's summary."""
    return {f"score/{variant}": entry["mean"] for variant, entry in scores.summary.items()}
