"""An answer as lines of text, which the console, Markdown and LaTeX show in their own way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.columns import Column
from dreambooth.study.answers.paired import ENOUGH, Mean
from dreambooth.study.answers.pareto import Front
from dreambooth.study.answers.settings import short, word

BEST = "*"
NOT_ZERO = "†"
ON_FRONT = "◆"
MANY = 8  # names in a sentence


@dataclass(frozen=True)
class Cell:
    """A score with three decimals, and its interval if it has one."""

    value: str = ""
    interval: str = ""
    best: bool = False
    excludes_zero: bool = False


@dataclass(frozen=True)
class Line:
    """A line of the table: what it shows, its leading cells, `n`, and a cell for each column."""

    kind: Literal["ours", "real", "difference", "published"]
    leads: tuple[str, ...]
    n: str
    cells: tuple[Cell, ...]


def lead_headers(answer: Answer) -> list[str]:
    """Name the leading columns: the settings that vary, or one for the rows of a source."""
    return [short(key) for key in _keys(answer)] or [""]


def lines_of(answer: Answer) -> list[Line]:
    """Write every row: our means, the differences from its baseline, and the published numbers."""
    keys, columns = _keys(answer), answer.columns
    baselines = {row.baseline for row in answer.rows if row.baseline}
    on_front = {p.row for front in answer.fronts if front.over == "rows" for p in front.best}
    best = {column.variant: answer.best(column) for column in columns}
    lines = []
    for row in answer.rows:
        if row.kind == "source":
            lines.append(_published(row.name, row.published, columns, ()))
            continue
        mark = f" {ON_FRONT}" if row.name in on_front else ""
        if keys and row.kind == "setting":
            leads = [word(key, row.setting.get(key)) for key in keys]
            leads[0] += mark
        else:
            leads = [row.name + mark, *[""] * (len(keys) - 1)]
        lines.append(_ours(row, leads, columns, best if row.kind != "real" else {}))
        blank = [""] * (len(leads) - 1)
        if row.published:
            lines.append(_published("  published", row.published, columns, blank))
        if row.differences:
            what = "difference" if len(baselines) == 1 else f"minus {row.baseline}"
            n = max(mean.subjects for mean in row.differences.values())
            cells = [_difference(row.differences.get(c.variant), n) for c in columns]
            lines.append(Line("difference", (f"  {what}", *blank), str(n), tuple(cells)))
        if row.differences and row.published_differences:
            what = "  published diff."
            lines.append(_published(what, row.published_differences, columns, blank, sign="+"))
    return lines


def _keys(answer: Answer) -> list[str]:
    """List the settings that have a column; none where rows have the names that a source gave."""
    if answer.has_source:
        return []
    return list(dict.fromkeys(key for row in answer.rows for key in row.setting))


def _ours(
    row: Row, leads: Sequence[str], columns: Sequence[Column], best: Mapping[str, float | None]
) -> Line:
    scored = max((mean.subjects for mean in row.scores.values()), default=len(row.subjects))
    cells = [_mean(row.scores.get(c.variant), scored, best.get(c.variant)) for c in columns]
    if not row.runs:
        cells = [Cell("not run"), *[Cell()] * (len(columns) - 1)] if columns else []
    n = str(scored or "")
    if row.kind == "real":
        return Line("real", tuple(leads), n, tuple(cells))
    if len(row.runs) != scored:
        n = f"{n} ({len(row.runs)})"
    return Line("ours", tuple(leads), n, tuple(cells))


def _published(
    label: str,
    scores: Mapping[str, float],
    columns: Sequence[Column],
    blank: Sequence[str],
    sign: str = "",
) -> Line:
    cells = [
        Cell(f"{scores[c.source_name]:{sign}.3f}")
        if c.source_name and c.source_name in scores
        else Cell()
        for c in columns
    ]
    return Line("published", (label, *blank), "", tuple(cells))


def _mean(mean: Mean | None, n: int, best: float | None) -> Cell:
    if mean is None:
        return Cell()
    interval = "{:.3f} to {:.3f}".format(*mean.interval) if mean.interval else ""
    return Cell(f"{mean.value:.3f}", _with_n(interval, mean, n), best == mean.value)


def _difference(mean: Mean | None, n: int) -> Cell:
    if mean is None:
        return Cell()
    interval = "{:+.3f} to {:+.3f}".format(*mean.interval) if mean.interval else ""
    interval = _with_n(interval, mean, n)
    return Cell(f"{mean.value:+.3f}", interval, excludes_zero=mean.excludes_zero)


def _with_n(interval: str, mean: Mean, n: int) -> str:
    """Add the number of subjects where it is not the line's."""
    return interval if mean.subjects == n else f"{interval} n={mean.subjects}".strip()


# -- what stands around the table ---------------------------------------------------------------


def ids_of(answer: Answer) -> Iterator[tuple[str, str, str]]:
    """List each column's heading, its variant id, and what its source computed, if that differs."""
    for column in answer.columns:
        has_other = column.source_name and not column.same_variant
        stated = column.source_variant or "not stated"
        yield column.header, column.variant, stated if has_other else ""


def legend(answer: Answer, best: str) -> Iterator[str]:
    """Explain the marks and what is compared, a sentence each.

    Args:
        best: how the best score of a column is marked.
    """
    yield (
        "n: subjects with scores (runs, where their number is another). Scores are means over "
        f"subjects, with 95 % bootstrap intervals over subjects. {best}: best of a column."
    )
    baselines = dict.fromkeys(row.baseline for row in answer.rows if row.baseline)
    if baselines:
        yield (
            f"difference: over the subjects that both have, the row minus {' or '.join(baselines)}"
            f". {NOT_ZERO} its interval excludes 0."
        )
    counts = [mean.subjects for row in answer.rows for mean in row.differences.values()]
    if counts and min(counts) < ENOUGH:
        yield (
            f"An interval over fewer than {ENOUGH} subjects decides nothing: without any effect "
            "all of them would still agree in sign more than 1 time in 20."
        )
    if any(column.source_name for column in answer.columns):
        other = [c.header for c in answer.columns if c.source_name and not c.same_variant]
        yield f"published: {_source(answer)}, in the source's own variants, listed beside ours." + (
            f" Where they are not the same ({', '.join(other)}) only directions compare."
            if other
            else ""
        )
    for front in answer.fronts:
        yield _front(front, {column.variant: column.header for column in answer.columns})


def _source(answer: Answer) -> str:
    return (answer.published and answer.published.source) or "the source's numbers"


def _several(names: Sequence[str]) -> str:
    """List names; only how many they are where that would be a page of text."""
    if len(names) <= MANY:
        return "; ".join(names)
    return f"{len(names)} rows, marked in answer.md"


def _front(front: Front, headers: Mapping[str, str]) -> str:
    """List a front in words."""
    names = [headers.get(v, v) for v in (front.subject_variant, front.prompt_variant)]
    if front.over == "rows":
        found = _several([point.row for point in front.best])
        return (
            f"{ON_FRONT} Pareto front, no other row is better in both {names[0]} and {names[1]}: "
            f"{found}."
        )
    rows = dict.fromkeys(point.row for point in front.best)
    found = "; ".join(
        f"{row} at step {', '.join(str(p.step) for p in front.best if p.row == row)}"
        for row in rows
    )
    return f"Pareto front over the steps of the curves ({names[0]}, {names[1]}): {found}."
