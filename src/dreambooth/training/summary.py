"""The closing summary of a run: where everything is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from dreambooth.data.prompts import SubjectWords
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import print_scores
from dreambooth.metrics.variants import short_id
from dreambooth.quoting import quoted, typed

SHOWN = ("dino", "clip_i", "clip_t", "pres", "div")  # of a run's scores, in its line


def print_line(name: str, costs: Mapping[str, Any], scores: Scores | None) -> None:
    """Print the scores and the time of a run of a sweep, whose closing table has everything."""
    found = {short_id(v): entry["mean"] for v, entry in scores.summary.items()} if scores else {}
    shown = ", ".join(f"{key} {found[key]:.3f}" for key in SHOWN if key in found)
    print(f"{name}: {shown or 'no scores'}, {costs['seconds']:.0f} s in all", flush=True)


def print_summary(
    folder: Path,
    snippet: str,
    words: SubjectWords,
    costs: Mapping[str, Any],
    scores: Scores | None,
) -> None:
    """Print a run's files, scores and costs, and how to draw with it: a command and a snippet."""
    table = Table.grid(padding=(0, 2))
    for name, what in (
        ("samples/final.png", "the final samples; samples/step-*.png are from during training"),
        ("model/", "what was learned, in diffusers' format"),
        ("checkpoints/", "to resume from"),
        ("metrics.csv", "every logged number"),
        ("evaluation/", "scores.csv, metrics.json and the images of each evaluation"),
        ("curve.png, curve.csv", "the scores while training"),
        ("run.json", "the whole configuration and every cost"),
    ):
        if any((folder / part).exists() for part in name.split(", ")):
            table.add_row(escape(name), what)
    prompt = f"a {words.phrase} on the beach"
    console = Console()
    console.print(Panel(table, title=escape(str(folder)), title_align="left"))
    if scores is not None:
        print_scores(scores, "scores", "the training photos")
    console.print(
        f"{costs['seconds']:.0f} s in all, peak memory {costs['peak_memory_gib']:.2f} GiB, "
        f"{costs['bytes_written'] / 2**20:.0f} MiB written"
    )
    again = (typed(f"run={quoted(folder)}"), typed(f"prompts=[{quoted(prompt)}]"))
    # printed without rich, which would break a long line at the terminal's width
    print("\npython generate.py", *again, end="\n\n")
    print(snippet)
