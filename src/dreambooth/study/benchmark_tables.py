"""The tables of a benchmark: macro numbers beside published ones, each subject, each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dreambooth.data.prompts import fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.evaluation.benchmark import Benchmark, SubjectImages
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import COLUMNS
from dreambooth.files import write_csv
from dreambooth.metrics.aggregate import bootstrap_interval, macro
from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.answer_files import FILES, write_answer
from dreambooth.study.answers.columns import Column, columns_of_metrics
from dreambooth.study.answers.paired import BOOTSTRAP_SEED, Mean
from dreambooth.study.answers.published import Published
from dreambooth.study.finished.real_images import REAL
from dreambooth.study.fitting import Block, print_fitted
from dreambooth.study.printing import print_answer, print_legend, with_half_interval

TABLES = ("subjects.csv", "prompts.csv", "images.csv", "missing.csv")
GAPS = ("subject", "prompt", "found", "expected", "reason")  # columns of missing.csv


def benchmark_answer(
    benchmark: Benchmark, scores: Mapping[str, Scores], published: Published, notes: Sequence[str]
) -> Answer:
    """Build the table: the benchmark's means over subjects, real photos, and the source's rows."""
    folder = benchmark.spec.folder
    names = {v: entry["metric"] for s in scores.values() for v, entry in s.summary.items()}
    means = {variant: Mean.over(_of_subjects(scores, variant)) for variant in names}
    own = {v: mean for v, mean in means.items() if not v.startswith(REAL)}
    real = {
        v.removeprefix(REAL).removesuffix(".exclude_self"): mean
        for v, mean in means.items()
        if v.startswith(REAL) and v.endswith(".exclude_self")
    }
    subjects = tuple(scores)  # each stands for a run, too
    rows = [Row(folder.resolve().name, "setting", scores=own, runs=subjects, subjects=subjects)]
    name = folder.resolve().name
    rows = [Row(name, "setting", scores=own, runs=subjects, subjects=subjects)]
    rows += [
        Row(f"{row.name} (published)", "source", published=row.scores)
        for row in published.rows
        if not row.real
    ]
    source = [row for row in published.rows if row.real]
    if real or source:
        numbers = source[0].scores if source else {}
        label = source[0].name if source else "real images"
        rows.append(
            Row(label, "real", scores=real, published=numbers, runs=subjects, subjects=subjects)
        )
    title = f"{name}: {benchmark.count} images of {len(scores)} subjects"
    title += ", beside published numbers" if published.rows else ""
    shown = replace(published, title=title, question="", finding="")
    columns = columns_of_metrics(names, published)
    return Answer(shown, tuple(columns), tuple(rows), notes=tuple(notes))


def _of_subjects(scores: Mapping[str, Scores], variant: str) -> dict[str, float]:
    """Return each subject's mean of one variant, for those that have it."""
    having = {name: each.summary.get(variant) for name, each in scores.items()}
    return {name: entry["mean"] for name, entry in having.items() if entry}


def subject_rows(benchmark: Benchmark, scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Make a row per subject: each variant's mean and interval over prompts."""
    rows = []
    for subject in benchmark.subjects:
        words, row = subject.words, {"subject": subject.name}
        row |= {"class": words.class_noun, "live": words.live, "images": len(subject.items)}
        for variant, entry in scores[subject.name].summary.items():
            low, high = entry["interval_95"] or (None, None)
            row |= {variant: entry["mean"], f"{variant}.low_95": low, f"{variant}.high_95": high}
        rows.append(row)
    return rows


def prompt_rows(benchmark: Benchmark, scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Make a row per prompt: each variant's macro mean over the subjects that have the prompt.

    A subject's part is its mean over the prompt's images; the interval resamples subjects.
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}  # prompt, variant, subject
    for subject in benchmark.subjects:
        for template, row in _rows_of(subject, scores[subject.name]):
            of_prompt = values.setdefault(template, {})
            for variant in row.keys() - set(COLUMNS):
                of_subjects = of_prompt.setdefault(variant, {})
                of_subjects.setdefault(subject.name, []).append(row[variant])
    rows = []
    known = [t for live in (False, True) for t in prompt_set(benchmark.spec.prompts, live)]
    order = {template: known.index(template) for template in values if template in known}
    for template in sorted(values, key=lambda t: order.get(t, len(known))):
        of_prompt = values[template]
        row: dict[str, Any] = {"prompt": fill(template, None, "[class]")}
        variants = sorted(of_prompt)
        row["subjects"] = max((len(of_prompt[variant]) for variant in variants), default=0)
        for variant in variants:
            means = {name: sum(v) / len(v) for name, v in sorted(of_prompt[variant].items())}
            pair = bootstrap_interval(list(means.values()), list(means), seed=BOOTSTRAP_SEED)
            low, high = pair or (None, None)
            row |= {variant: macro(means), f"{variant}.low_95": low, f"{variant}.high_95": high}
        rows.append(row)
    return rows


def _rows_of(subject: SubjectImages, scores: Scores) -> list[tuple[str, dict[str, Any]]]:
    """Pair each image's scores with its template; class images are left out."""
    pairs = zip(subject.templates, scores.rows[: len(subject.items)], strict=True)
    return [(template, row) for template, row in pairs if template]


def write_benchmark(
    folder: Path, benchmark: Benchmark, scores: Mapping[str, Scores], answer: Answer
) -> list[Path]:
    """Write the answer, and the tables of subjects, prompts, images and gaps; return the files."""
    images = [{"subject": name, **row} for name, each in scores.items() for row in each.rows]
    tables = (
        subject_rows(benchmark, scores),
        prompt_rows(benchmark, scores),
        images,
        [asdict(gap) for gap in benchmark.gaps],
    )
    for name, rows in zip(TABLES, tables, strict=True):
        write_csv(folder / name, rows, GAPS if name == "missing.csv" else None)
    write_answer(folder, answer)
    return [folder / name for name in (*FILES, *TABLES)]


def print_benchmark(
    console: Console, benchmark: Benchmark, scores: Mapping[str, Scores], answer: Answer
) -> None:
    """Print a line a subject, the answer, and the id behind each heading."""
    subjects = [subject.name for subject in benchmark.subjects]
    leads = [
        Block("subject", [Text(name) for name in subjects], is_number=False),
        Block("images", [Text(f"{len(s.items)} ") for s in benchmark.subjects]),
    ]
    columns = [
        Block(f"{c.header} {c.arrow}", _cells(c, [scores[name] for name in subjects]))
        for c in answer.columns
    ]
    count = benchmark.count
    print_fitted(console, f"{count} images of {len(subjects)} subjects", leads, columns)
    print_answer(console, answer)
    own = "In the table of subjects: ± half the width of a subject's own 95 % interval."
    print_legend(console, answer, own)


def _cells(column: Column, scores: Sequence[Scores]) -> list[Text]:
    entries = [each.summary.get(column.variant) for each in scores]
    return [with_half_interval(e["mean"], e["interval_95"]) if e else Text("") for e in entries]
