"""Build a study's answer from its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dreambooth.evaluation.plan import PROTOCOL
from dreambooth.study.answers.answer import Answer, Row
from dreambooth.study.answers.columns import columns_of
from dreambooth.study.answers.effects import effects
from dreambooth.study.answers.paired import means, paired_differences
from dreambooth.study.answers.pareto import fronts
from dreambooth.study.answers.published import PublishedRow, Study
from dreambooth.study.answers.settings import chosen, grouped, in_order, short, varying, words
from dreambooth.study.finished.programs import programs
from dreambooth.study.finished.real_images import REAL, real_rows
from dreambooth.study.finished.scored_runs import ScoredRun
from dreambooth.study.finished.sweeps import Unfinished

# what scores depend on beside the model and the sampler, where an id does not say it
SCORING = tuple(f"scored.{key}" for key in ("name", *PROTOCOL, "templates", "references"))
Members = tuple[Row, Sequence[ScoredRun]]


def build_answer(runs: Sequence[ScoredRun], unfinished: Sequence[Unfinished] = ()) -> Answer:
    """Build the answer of a study from its scored runs.

    Every published row has a row for each of the settings that vary beside its own (usually one);
    runs that belong to no published row have a row per setting; real images come last. Runs of two
    settings are never averaged. The baseline of differences is the first published row, or, where
    nothing was published and exactly one setting varies over two or more subjects, its first value.
    """
    runs = in_order(runs)
    study = Study.read(runs)
    of_source = [_rows_of(row, members) for row, members in study.table] if study else []
    taken = {id(run) for rows in of_source for _, members in rows for run in members}
    own = _own_rows([run for run in runs if id(run) not in taken], runs)
    baselines = of_source[0] if of_source else _first_value(runs, own)
    rows = [*(row for rows in of_source for row in rows), *own]
    is_baseline = {id(row) for row, _ in baselines}
    compared = [
        row if id(row) in is_baseline else _compared(row, [b for b, _ in baselines])
        for row, _ in rows
    ]
    published = study.published if study else None
    return Answer(
        published,
        tuple(columns_of(runs, published)),
        (*compared, *real_rows(runs, study)),
        fronts([(row.name, members, row.scores) for row, members in rows]),
        effects(runs),
        tuple(_notes(runs, study, rows, compared)),
        tuple(unfinished),
    )


def _row(name: str, kind: Any, members: Sequence[ScoredRun], **parts: Any) -> Row:
    return Row(
        name,
        kind,
        runs=tuple(run.name for run in members),
        subjects=tuple(sorted({run.subject for run in members})),
        scores={v: mean for v, mean in means(members).items() if not v.startswith(REAL)},
        **parts,
    )


def _rows_of(row: PublishedRow, members: Sequence[ScoredRun]) -> list[Members]:
    """Make a published row for each setting that its runs differ in; one without runs for none."""
    groups = grouped(members, varying(members)) or [({}, [])]
    names = _names([others for others, _ in groups], chosen(members))
    rows = []
    for (others, group), told in zip(groups, names, strict=True):
        name = f"{row.name}, {told}" if told else row.name
        setting = {**row.setting, **others}
        parts = {"setting": setting, "others": others, "published": row.scores}
        rows.append((_row(name, "published", group, **parts), group))
    return rows


def _own_rows(own: Sequence[ScoredRun], runs: Sequence[ScoredRun]) -> list[Members]:
    """Make a row for each setting of `own`, named by what differs between all `runs`."""
    groups = grouped(own, varying(runs))
    names = _names([setting for setting, _ in groups], chosen(runs))
    return [
        (_row(name or "all runs", "setting", group, setting=setting), group)
        for (setting, group), name in zip(groups, names, strict=True)
    ]


def _names(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Name settings by `keys`, or by all that they have where those do not tell them apart."""
    names = [words({key: setting[key] for key in keys}) for setting in settings]
    return names if len(set(names)) == len(names) else [words(setting) for setting in settings]


def _first_value(runs: Sequence[ScoredRun], rows: Sequence[Members]) -> Sequence[Members]:
    """Choose the baseline where nothing was published; none if more than one setting varies."""
    several = len({run.subject for run in runs}) > 1 and len(rows) > 1
    return rows[:1] if several and len(chosen(runs)) == 1 else ()


def _compared(row: Row, baselines: Sequence[Row]) -> Row:
    """Add the differences from the baseline with the same other settings, if there is just one."""
    alike = [
        base
        for base in baselines
        if all(base.others[key] == row.setting[key] for key in base.others if key in row.setting)
    ]
    if len(alike) != 1:
        return row
    (base,) = alike
    common = [name for name in row.published if name in base.published]
    return replace(
        row,
        baseline=base.name,
        differences=paired_differences(row.scores, base.scores),
        published_differences={n: row.published[n] - base.published[n] for n in common},
    )


def _notes(
    runs: Sequence[ScoredRun], study: Study | None, rows: Sequence[Members], compared: Sequence[Row]
) -> Iterator[str]:
    """Say what a reader must know to read the rows as they are meant."""
    if study and study.note:
        yield study.note
    for row, _ in study.table if study else ():
        unknown = [key for key in row.setting if not any(key in run.settings for run in runs)]
        if unknown:
            yield f"{row.name}: no run has the setting {', '.join(unknown)}."
    unscored = [run.name for run in runs if not run.metrics]
    if unscored:
        yield f"Not scored: {', '.join(unscored)}."
    scored = [
        {name for mean in row.scores.values() for name in mean.per_subject} for row in compared
    ]
    if len({frozenset(names) for names in scored if names}) > 1:
        yield (
            "Rows have different subjects: compare them by their differences, which are over the "
            "subjects that both have."
            if any(row.differences for row in compared)
            else "Rows have different subjects, so their means do not compare."
        )
    members = {row.name: group for row, group in rows}
    for row in compared:
        if row.baseline and row.differences:
            yield from _scored_otherwise(row, members[row.name], members[row.baseline])
    if made_by := programs(runs):
        yield made_by


def _scored_otherwise(
    row: Row, own: Sequence[ScoredRun], baseline: Sequence[ScoredRun]
) -> Iterator[str]:
    """Warn where a row was scored in another way than its baseline under the same ids."""
    keys = [key for key in varying([*own, *baseline]) if key in SCORING or key.endswith(".weights")]
    if keys:
        what = ", ".join(short(key) for key in keys)
        yield f"{row.name} was scored otherwise than {row.baseline}: they differ in {what}."
