"""Print a sweep's runs and its answer on a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.answer_lines import (
    BEST,
    NOT_ZERO,
    Cell,
    Line,
    ids_of,
    lead_headers,
    legend,
    lines_of,
)
from dreambooth.study.answers.columns import Column
from dreambooth.study.answers.effect_lines import HEADERS, HEADING, MEANING, effect_lines
from dreambooth.study.answers.settings import short, varying, word
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.fitting import Block, print_fitted
from dreambooth.training.logs.costs import reused_steps

REUSED = "reused"


def print_runs(console: Console, runs: Sequence[ScoredRun], answer: Answer) -> None:
    """Print a line a run: settings that differ, scores, costs; then the runs without scores."""
    keys, columns = varying(runs), answer.columns
    leads = [
        Block(short(key), [Text(word(key, run.settings.get(key))) for run in runs], is_number=False)
        for key in keys
    ] or [Block("run", [Text(run.name) for run in runs], is_number=False)]
    best = {column.variant: _best_of_subjects(runs, column) for column in columns}
    scores = [
        Block(f"{c.header} {c.arrow}", [_score(run, c.variant, best[c.variant]) for run in runs])
        for c in columns
    ]
    costs = [run.run.record["costs"] for run in runs]
    reused = [reused_steps(cost) for cost in costs]
    scores += [
        Block("s", [Text(f"{cost['seconds']:.1f} ") for cost in costs]),
        Block("GiB", [Text(f"{cost['peak_memory_gib']:.2f} ") for cost in costs]),
    ]
    if any(reused):
        scores.append(Block(REUSED, [Text(f"{steps or ''} ") for steps in reused]))
    print_fitted(console, f"{len(runs)} run{'' if len(runs) == 1 else 's'}", leads, scores)
    if any(reused):
        steps = f"{REUSED}: optimizer steps that another run of the same training had trained."
        console.print(Text(f"{steps}\n", "dim"))
    if answer.unfinished:
        parts = {"not finished": "name", "state": "state", "reason": "reason"}
        blocks = [
            Block(header, [Text(getattr(run, key)) for run in answer.unfinished], is_number=False)
            for header, key in parts.items()
        ]
        print_fitted(console, "", blocks, ())


def _best_of_subjects(runs: Sequence[ScoredRun], column: Column) -> Mapping[str, float]:
    """Return the best score of each subject that several runs have scored."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        if column.variant in run.scores:
            scores.setdefault(run.subject, []).append(run.scores[column.variant])
    best = min if column.lower_is_better else max
    return {name: best(values) for name, values in scores.items() if len(values) > 1}


def _score(run: ScoredRun, variant: str, best: Mapping[str, float]) -> Text:
    """Write a run's score, if it has one; the best of its subject is marked."""
    if variant not in run.scores:
        return Text("")
    value = run.scores[variant]
    return with_half_interval(value, run.intervals.get(variant), best.get(run.subject) == value)


def with_half_interval(
    value: float, interval: Sequence[float] | None, is_best: bool = False
) -> Text:
    """Write a score and half the width of its interval: `0.712 ±.021`."""
    half = f" ±{(interval[1] - interval[0]) / 2:.3f} ".replace("±0", "±") if interval else ""
    text = Text(f"{value:.3f}{BEST if is_best else ' '}", "bold" if is_best else "")
    return text + Text(half, "dim")


def print_answer(console: Console, answer: Answer) -> None:
    """Print the question, and the table of settings unless it would repeat that of the runs."""
    published = answer.published
    if published:
        console.print(Text(published.title, "bold"))
        for start, text in (
            ("", published.question),
            ("Source: ", published.source),
            ("The source's finding: ", published.finding),
        ):
            if text:
                console.print(Text(start + text))
        console.print()
    if answer.adds_to_runs:
        _print_lines(console, "means over subjects", lead_headers(answer), lines_of(answer), answer)
    if lines := effect_lines(answer):
        _print_lines(console, HEADING, HEADERS, lines, answer)


def _print_lines(
    console: Console, title: str, headers: Sequence[str], lines: Sequence[Line], answer: Answer
) -> None:
    leads = [
        Block(header, [Text(line.leads[i]) for line in lines], is_number=False)
        for i, header in enumerate(headers)
    ]
    leads.append(Block("n", [Text(f"{line.n} ") for line in lines]))
    columns = [
        Block(f"{c.header} {c.arrow}", [_cell(line, line.cells[i]) for line in lines])
        for i, c in enumerate(answer.columns)
    ]
    print_fitted(console, title, leads, columns)


def _cell(line: Line, cell: Cell) -> Text:
    mark = BEST if cell.best else NOT_ZERO if cell.excludes_zero else " " if cell.value else ""
    text = Text(
        f"{cell.value}{mark}", "bold" if cell.best else "italic" if line.kind == "published" else ""
    )
    return text + Text(f"\n{cell.interval} ", "dim") if cell.interval else text


RUNS = (
    "In the table of runs: ± half the width of a run's own 95 % interval; "
    f"{BEST} best of the subject's runs."
)


def print_legend(console: Console, answer: Answer, above: str = RUNS) -> None:
    """Print the id behind each heading, what the marks mean, and what a reader must know.

    Args:
        above: a sentence on the table that stands above the answer.
    """
    ids = Table.grid(padding=(0, 2))
    for header, variant, stated in ids_of(answer):
        ids.add_row(header, Text(variant), style="dim")
        if stated:
            ids.add_row("", Text(f"published: {stated}"), style="dim")
    console.print(ids)
    if answer.columns:
        console.print(Text(above, "dim"))
    sentences = list(legend(answer, BEST))[0 if answer.adds_to_runs else 1 :]
    meaning = [MEANING] if answer.effects else []
    for sentence in (*sentences, *meaning, *answer.notes):
        console.print(Text(sentence, "dim"))
