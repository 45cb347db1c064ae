"""A study in Weights & Biases: a run beside its runs, with its tables, figures and page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.metrics.variants import short_id
from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.paired import Mean
from dreambooth.study.answers.settings import short, varying
from dreambooth.study.figures.write import FOLDER as FIGURES
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.finished.sweeps import sweep_name
from dreambooth.study.page.write import STUDY_PAGE
from dreambooth.training.logs.wandb_run import image, known_as, logged_as
from dreambooth.training.logs.wandb_session import Session, WandbNames

NOTE = "this_study.json"  # beside W&B's files in the study's folder
SECONDS = 60.0  # to wait for the upload, which is what the command is for
PAGE_BYTES = 40 * 2**20  # of a larger page, its pictures are too many to be shown inside W&B


def log_study(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> None:
    """Log the summary of finished runs to one W&B run of their group.

    It holds the table `runs` (a run a row, with its settings, scores, costs and final samples),
    the table `settings` (the means of each setting), `figures/*` and `page`. Logging it again goes
    on with the same W&B run, and W&B shows the newest.
    """
    logged = [known[0] for run in runs if (known := logged_as(run.run.folder))]
    groups = Counter(names.group for names in logged)
    group = groups.most_common(1)[0][0] if groups else sweep_name(folder)
    project = logged[0].project if logged else "dreambooth"
    names = WandbNames("", project, f"{group} summary", group, "report")
    names, _ = known_as(folder, NOTE, names, SECONDS)
    session = Session(folder, names, {"runs": len(runs)}, SECONDS)
    session.send(lambda run: run.log(_shown(folder, runs, answer)))
    session.close()


def _shown(folder: Path, runs: Sequence[ScoredRun], answer: Answer) -> dict[str, Any]:
    import wandb

    shown: dict[str, Any] = {"table/runs": _runs_table(runs), "table/settings": _settings(answer)}
    for path in sorted((folder / FIGURES).glob("*.png")):
        shown[f"figures/{path.stem}"] = image(path)
    page = folder / STUDY_PAGE
    if page.exists() and page.stat().st_size <= PAGE_BYTES:
        shown["page"] = wandb.Html(page.read_text("utf-8"), inject=False)
    return shown


def _runs_table(runs: Sequence[ScoredRun]) -> Any:
    """Make a row of each run; a score that it does not have is empty."""
    import wandb

    keys = varying(runs)
    variants = list(dict.fromkeys(v for run in runs for v in run.scores if "real_ref" not in v))
    costs = ("seconds", "peak_memory_gib")
    settings = [_column([run.settings.get(key) for run in runs]) for key in keys]
    rows = []
    for number, run in enumerate(runs):
        final, record = run.run.folder / "samples" / "final.png", run.run.record["costs"]
        rows.append(
            [
                run.name,
                image(final) if final.exists() else None,
                *(column[number] for column in settings),
                *(run.scores.get(variant) for variant in variants),
                *(record.get(name) for name in costs),
            ]
        )
    headers: list[Any] = [
        "run",
        "final samples",
        *(short(key) for key in keys),
        *_headers(variants),
        *costs,
    ]
    return wandb.Table(columns=headers, data=rows)


def _settings(answer: Answer) -> Any:
    """Make a row of each setting, with the means of its scores over subjects."""
    import wandb

    variants = [column.variant for column in answer.columns]
    compared = [v for v in variants if any(v in row.differences for row in answer.rows)]
    rows = [
        [row.name, row.kind, *_values(row.scores, variants), *_values(row.differences, compared)]
        for row in answer.rows
    ]
    differences = [f"{header} - baseline" for header in _headers(compared)]
    headers: list[Any] = ["setting", "kind", *_headers(variants), *differences]
    return wandb.Table(columns=headers, data=rows)


def _values(means: Mapping[str, Mean], variants: Sequence[str]) -> list[float | None]:
    return [means[variant].value if variant in means else None for variant in variants]


def _headers(variants: Sequence[str]) -> list[str]:
    """Shorten ids; those that would be equal stay whole."""
    names = Counter(short_id(variant) for variant in variants)
    return [v if names[short_id(v)] > 1 else short_id(v) for v in variants]


def _column(values: Sequence[Any]) -> list[Any]:
    """Write values of different types as text: a column of W&B's has one type."""
    types = {type(value) for value in values if value is not None}
    if types in ({bool}, {str}) or types <= {int, float}:
        return list(values)
    return [None if value is None else str(value) for value in values]
