"""Scores of an extracted LoRA beside those of the full model that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.cli.scoring.drawn_scores import earlier_costs, evaluation_of, score_weights
from dreambooth.evaluation.write import scores_folder
from dreambooth.files import bytes_of, readable_size, write_csv
from dreambooth.metrics.variants import lower_is_better
from dreambooth.model.adapters.additions import Additions
from dreambooth.model.adapters.formats import find_adapter
from dreambooth.model.token_files import TOKEN_FILE
from dreambooth.study.finished.base_model import PlainModel, PlainWeights
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.study.finished.runs import Run

LEAD = ("model", "relative_error", "bytes")  # columns of comparison.csv, before the scores


def print_beside_full_model(cfg: DictConfig, folder: Path, error: float) -> None:
    """Score the LoRA in `folder` and the run that it is of; print and write one table of both.

    Both draw with the run's own sampling and are compared with its photos. Images that are there
    are not drawn again. The table is `comparison.csv` in `folder`.

    Args:
        error: what the LoRA lacks of the whole change, from 0 to 1.

    Raises:
        UserError: whatever keeps them from being scored.
    """
    run = Run.read(cfg.run)
    evaluation, references = evaluation_of(cfg, run, run.sampling)
    token = folder / TOKEN_FILE
    tokens = [str(token)] if token.is_file() else []
    base = PlainModel(run.base, run.sampling, run.words)
    lora = PlainWeights(base, Additions.parse([str(folder)], tokens))
    files, whole = [find_adapter(folder), *map(Path, tokens)], [run.folder / "model"]
    rows, metrics = [], {}
    for label, weights, place, earlier, lacking, exported in (
        ("full model", RunWeights(run, None), run.folder, earlier_costs(run), 0.0, whole),
        (f"LoRA of rank {cfg.rank}", lora, folder, None, error, files),
    ):
        output = scores_folder(place, evaluation.spec.name)
        scores, _ = score_weights(cfg, evaluation, run, weights, output, earlier)
        own = {k: v for k, v in scores.summary.items() if not k.startswith("real_ref.")}
        metrics |= {variant: entry["metric"] for variant, entry in own.items()}
        row = dict(zip(LEAD, (label, round(lacking, 4), bytes_of(exported)), strict=True))
        rows.append({**row, **{variant: entry["mean"] for variant, entry in own.items()}})
    write_csv(folder / "comparison.csv", rows, [*LEAD, *metrics])
    _print(rows, metrics, f"{evaluation.spec.name}, beside {references}")
    print(folder / "comparison.csv")


def _print(rows: list[dict[str, Any]], metrics: dict[str, str], title: str) -> None:
    """Print a column for each model, and the variant ids that define the scores."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(row["model"], justify="right")
    table.add_row("lacks of the change ↓", *(f"{row['relative_error']:.3f}" for row in rows))
    table.add_row("size ↓", *(readable_size(row["bytes"]) for row in rows), end_section=True)
    variants = Table.grid(padding=(0, 2))
    for variant, metric in metrics.items():
        arrow = "↓" if lower_is_better(variant) else "↑"
        scores = [f"{row[variant]:.3f}" if variant in row else "" for row in rows]
        table.add_row(f"{metric} {arrow}", *scores)
        variants.add_row(metric, variant, style="dim")
    console = Console()
    console.print(table)
    console.print(variants)
