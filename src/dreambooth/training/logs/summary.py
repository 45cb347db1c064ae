"""The closing summary of a run: where everything is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import print_scores
from dreambooth.files import readable_size
from dreambooth.quoting import quoted, typed


@dataclass(frozen=True)
class Finished:
    """A run that has finished: where it is, what it cost, and its scores if it has any.

    `snippet` are lines of Python that load its export and draw a picture; None without an export.
    `verified` is what `training/exports/verify.py` found, by layout.
    """

    folder: Path
    words: SubjectWords
    snippet: str | None
    costs: Mapping[str, Any]
    scores: Scores | None
    verified: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def refuse_unverified(run: Finished) -> None:
    """Refuse an export that its consumer cannot use, once everything else is written.

    Raises:
        UserError: names the layout, and what is wrong.
    """
    for layout, result in run.verified.items():
        if result["error"] is not None:
            raise UserError(
                f"the {layout} export of {run.folder} is not as it should be: {result['error']}. "
                "The run is complete; leave this layout out of export.layouts, or report it with "
                "its run.json."
            )


def print_summary(run: Finished) -> None:
    """Print a run's files, scores and costs, and how to draw with it: a command and a snippet."""
    folder, costs = run.folder, run.costs
    table = Table.grid(padding=(0, 2))
    for name, what in (
        ("run.html", "the whole run as a page"),
        ("samples/final.png", "the photos, and the samples before and after training"),
        ("model/", "what was learned, in diffusers' format"),
        ("exports/", "the same for other programs; docs/exports.md says which reads what"),
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
        f"{costs['seconds']:.0f} s in all, peak memory {costs['peak_memory_gib']:.2f} GiB"
        f"{_beside_estimate(costs)}, {readable_size(costs['bytes_written'])} written"
    )
    again = (typed(f"run={quoted(folder)}"), typed(f"prompts=[{quoted(prompt)}]"))
    # printed without rich, which would break a long line at the terminal's width
    if run.snippet is not None:
        print("\nDraw with it:\n\npython generate.py", *again)
        print("\nIn Python, with diffusers:\n", run.snippet, sep="\n", end="")


def _beside_estimate(costs: Mapping[str, Any]) -> str:
    """Word the peak of training beside what was estimated, if it was."""
    said, training = costs.get("estimated_training_gib"), costs.get("stages", {}).get("training")
    if said is None or training is None:
        return ""
    return f" ({training['peak_memory_gib']:.2f} while training; estimated {said:.2f})"
