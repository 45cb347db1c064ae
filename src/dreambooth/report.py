"""Many runs side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from rich.console import Console
from rich.table import Table


class ClosingTable(Callback):
    """Hydra callback: after a sweep, one table of all its runs."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Print the table and write it as `runs.csv` in the sweep's folder."""
        print_table(Path(config.hydra.sweep.dir))


def find_runs(folder: Path) -> list[Path]:
    """Every finished run below a folder, sorted."""
    return sorted(path.parent for path in folder.rglob("run.json"))


def rows(folder: Path) -> list[dict[str, Any]]:
    """One row a run: its name, costs, last losses, and scores where there are any."""
    table = []
    for run in find_runs(folder):
        record = json.loads((run / "run.json").read_text())
        row: dict[str, Any] = {"run": str(run.relative_to(folder))}
        row |= last_logged(run / "metrics.csv", ("loss/instance", "loss/prior"))
        row["seconds"] = record["costs"]["seconds"]
        row["memory_gib"] = record["costs"]["peak_memory_gib"]
        table.append(row)
    return table


def last_logged(path: Path, columns: tuple[str, ...]) -> dict[str, float]:
    """The last value of each column of a metrics.csv that has one."""
    last: dict[str, float] = {}
    if path.exists():
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                last |= {c: round(float(line[c]), 4) for c in columns if line.get(c)}
    return last


def print_table(folder: Path) -> None:
    """Print `rows(folder)` and write them as `runs.csv`."""
    table = rows(folder)
    if not table:
        return
    columns = list(dict.fromkeys(key for row in table for key in row))
    shown = Table(title=str(folder), title_justify="left")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in table:
        shown.add_row(*(str(row.get(column, "")) for column in columns))
    Console().print(shown)
    with open(folder / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
