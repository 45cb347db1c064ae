"""What a page shows of a study, as JSON values: its runs, its settings and their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.columns import Column
from dreambooth.study.answers.paired import Mean
from dreambooth.study.answers.settings import chosen, short, varying, word
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.page.pictures import Pictures
from dreambooth.study.page.run_view import run_view

RUN_PAGE = "run.html"


def study_view(
    folder: Path, runs: Sequence[ScoredRun], answer: Answer, pictures: Pictures
) -> dict[str, Any]:
    """Collect what the page needs: `columns`, `keys`, `rows`, `runs`, `tradeoff` and `map`.

    `rows` are the answer's rows; each run has the number of its own under `row`, and a `label` that
    no other run has. The pictures are numbers; `Pictures.sources` has them.
    """
    keys = varying(runs)
    rows = list(answer.rows)
    of_run = _row_of_run(rows)
    views = []
    for run in runs:
        page = run.run.folder / RUN_PAGE
        view = run_view(run, pictures)
        view["row"] = of_run.get(run.name)
        view["settings"] = {key: _shown(key, run.settings.get(key)) for key in keys}
        view["page"] = page.relative_to(folder).as_posix() if page.exists() else None
        views.append(view)
    for view, label in zip(views, labels(runs, rows), strict=True):
        view["label"] = label
    return {
        "columns": [column_view(column) for column in answer.columns],
        "keys": [{"key": key, "short": short(key)} for key in keys],
        "rows": [_row(row, rows, keys) for row in rows],
        "runs": views,
        "tradeoff": tradeoff(answer.columns),
        "map": dict(zip("xy", number_settings(runs), strict=False)),
    }


def _row_of_run(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of the row that each run is in, by the run's name."""
    return {n: i for i, row in enumerate(rows) if row.kind != "real" for n in row.runs}


def labels(runs: Sequence[ScoredRun], rows: Sequence[Row]) -> list[str]:
    """Name every run for a reader by its subject, setting and seed, as far as these differ."""
    of_run, parts = _row_of_run(rows), []
    for run in runs:
        number = of_run.get(run.name)
        setting = rows[number].name if number is not None else ""
        parts.append((run.subject, setting, f"seed {run.settings.get('seed')}"))
    differ = [len({part[i] for part in parts}) > 1 for i in range(3)]
    names = [", ".join(p for p, d in zip(part, differ, strict=True) if d and p) for part in parts]
    names = [name or part[0] for name, part in zip(names, parts, strict=True)]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name}: {run.name}"
        for name, run in zip(names, runs, strict=True)
    ]


def tradeoff(columns: Sequence[Column]) -> dict[str, str] | None:
    """Choose the two scores of the Pareto plot: DINO, and CLIP-T without the identifier."""
    subject = [c.variant for c in columns if c.variant.startswith("dino.")]
    prompt = [c.variant for c in columns if c.variant.startswith("clip_t.")]
    prompt = [v for v in prompt if ".class_only." in v] or prompt
    return {"subject": subject[0], "prompt": prompt[0]} if subject and prompt else None


def number_settings(runs: Sequence[ScoredRun]) -> list[str]:
    """Choose the two settings that a map is drawn over: numbers that differ by choice.

    Steps and learning rate come first, across and up; none where fewer than two differ.
    """
    keys = [key for key in chosen(runs) if numbers(runs, key)]
    first = [key for key in ("max_steps", "lr") if key in keys]
    keys = first + [key for key in keys if key not in first]
    return keys[:2] if len(keys) > 1 else []


def numbers(runs: Sequence[ScoredRun], key: str) -> list[float]:
    """List a setting's values in order; none if they are not numbers."""
    values = [run.settings.get(key) for run in runs]  # lists and tables cannot be hashed
    found = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return sorted(set(found)) if len(found) == len(values) else []


def shown(value: Any) -> str:
    """Write a setting's value for a reader.

    >>> shown(True), shown(0.0002), shown(None), shown(["a", "b"])
    ('yes', '0.0002', 'none', 'a, b')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(one) for one in value)
    return "none" if value is None else str(value)


def _shown(key: str, value: Any) -> str:
    return shown(word(key, value) if isinstance(value, str) else value)


def column_view(column: Column) -> dict[str, Any]:
    """Return what a page's script needs of a column."""
    return {
        "variant": column.variant,
        "header": column.header,
        "arrow": column.arrow,
        "lower": column.lower_is_better,
    }


def _row(row: Row, rows: Sequence[Row], keys: Sequence[str]) -> dict[str, Any]:
    named = [i for i, other in enumerate(rows) if row.baseline and other.name == row.baseline]
    return {
        "name": row.name,
        "kind": row.kind,
        "settings": {key: _shown(key, row.setting[key]) for key in keys if key in row.setting},
        "baseline": named[0] if named else None,
        "scores": {variant: _mean(mean) for variant, mean in row.scores.items()},
        "differences": {variant: _mean(mean) for variant, mean in row.differences.items()},
    }


def _mean(mean: Mean) -> dict[str, Any]:
    subjects = {name: round(value, 5) for name, value in mean.per_subject.items()}
    return {"value": mean.value, "interval": mean.interval, "subjects": subjects}
