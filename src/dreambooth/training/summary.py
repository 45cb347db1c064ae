"""The closing summary of a run: where everything is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from dreambooth.data.prompts import SubjectWords
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import print_scores
from dreambooth.quoting import quoted, typed


@dataclass(frozen=True)
class Finished:
    """A run that has finished: where it is, what it cost, and its scores if it has any.

    `snippet` are lines of Python that load its export and draw a picture; None without an export.
    """

    folder: Path
    words: SubjectWords
    snippet: str | None
    costs: Mapping[str, Any]
    scores: Scores | None


def print_summary(run: Finished) -> None:
    """Print a run's files, scores and costs, and how to draw with it: a command and a snippet."""
    folder, costs = run.folder, run.costs
    table = Table.grid(padding=(0, 2))
    for name, what in (
        ("samples/final.png", "the photos, and the samples before and after training"),
        ("model/", "what was learned, in diffusers' format"),
        ("checkpoints/", "to resume from"),
        ("metrics.csv", "every logged number"),
        ("evaluation/", "scores.csv, metrics.json and the images of each evaluation"),
        ("curve.png, curve.csv", "the scores while training"),
        ("run.json", "the whole configuration and every cost"),
    ):
        if any((folder / part).exists() for part in name.split(", ")):
            table.add_row(escape(name), what)
    prompt = f"a {run.words.phrase} on the beach"
    console = Console()
    console.print(Panel(table, title=escape(str(folder)), title_align="left"))
    if run.scores is not None:
        print_scores(run.scores, "scores", "the training photos")
    console.print(
        f"{costs['seconds']:.0f} s in all, peak memory {costs['peak_memory_gib']:.2f} GiB, "
        f"{costs['bytes_written'] / 2**20:.0f} MiB written"
    )
    again = (typed(f"run={quoted(folder)}"), typed(f"prompts=[{quoted(prompt)}]"))
    # printed without rich, which would break a long line at the terminal's width
    if run.snippet is not None:
        print("\npython generate.py", *again, end="\n\n")
        print(run.snippet)
