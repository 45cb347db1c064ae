"""Build a study's answer from its runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dreambooth.evaluation.plan import PROTOCOL
from dreambooth.study.answer import Answer, Row
from dreambooth.study.columns import columns_of
from dreambooth.study.paired import Mean, means, paired_differences, subject_means
from dreambooth.study.pareto import fronts
from dreambooth.study.published import PublishedRow, Study
from dreambooth.study.scored_runs import ScoredRun
from dreambooth.study.settings import OVER, chosen, grouped, in_order, short, varying, word
from dreambooth.study.sweeps import Unfinished

# what scores depend on beside the model and the sampler, where an id does not say it
SCORING = tuple(f"scored.{key}" for key in ("name", *PROTOCOL, "templates", "references"))
REAL = "real_ref."  # how the ids of the photos' own scores begin

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
        (*compared, *_real_rows(runs, study)),
        fronts([(row.name, members, row.scores) for row, members in rows]),
        tuple(_notes(runs, study, rows, compared)),
        tuple(unfinished),
    )


def words(setting: Mapping[str, Any]) -> str:
    """Write a setting for a reader.

    >>> words({"method.name": "lora", "lr": 0.0001})
    'method=lora, lr=0.0001'
    """
    return ", ".join(f"{short(key)}={word(key, value)}" for key, value in setting.items())


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
    keys = [key for key in varying(members) if key not in OVER]
    shown = chosen(members)
    rows = []
    for others, group in grouped(members, keys) or [({}, [])]:
        told = {key: others[key] for key in shown}
        name = f"{row.name}, {words(told)}" if told else row.name
        setting = {**row.setting, **others}
        parts = {"setting": setting, "others": others, "published": row.scores}
        rows.append((_row(name, "published", group, **parts), group))
    return rows


def _own_rows(own: Sequence[ScoredRun], runs: Sequence[ScoredRun]) -> list[Members]:
    """Make a row for each setting of `own`, named by what differs between all `runs`."""
    keys = [key for key in varying(runs) if key not in OVER]
    shown = chosen(runs) or keys
    rows = []
    for setting, group in grouped(own, keys):
        name = words({key: setting[key] for key in shown}) or "all runs"
        rows.append((_row(name, "setting", group, setting=setting), group))
    return rows


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


def _real_rows(runs: Sequence[ScoredRun], study: Study | None) -> list[Row]:
    """Make the row of the photos among themselves; several where runs have several kinds of photos.

    Self-pairs are left out (`exclude_self`).
    """
    source = [row for row in study.published.rows if row.real] if study else []
    name = source[0].name if source else "real images"
    published = source[0].scores if source else {}
    keys = [
        key
        for key in varying(runs)
        if key.startswith("photos.") or key == "scored.references" or key.endswith(".weights")
    ]
    kinds: list[tuple[dict[str, Any], list[ScoredRun]]] = []
    for setting, members in grouped(runs, keys):
        alike = [group for _, group in kinds if _agree(_real(members), _real(group))]
        if alike:
            alike[0].extend(members)
        elif _real(members):
            kinds.append((setting, members))
    if not kinds:
        return [Row(name, "real", published=published)] if source else []
    rows = []
    for setting, members in kinds:
        scores = {variant: Mean.over(values) for variant, values in _real(members).items()}
        row = _row(
            name if len(kinds) == 1 else f"{name}, {words(setting)}",
            "real",
            members,
            published=published,
        )
        rows.append(replace(row, scores=scores))
    return rows


def _real(runs: Sequence[ScoredRun]) -> dict[str, dict[str, float]]:
    """Return the photos' own score of each subject, by the variant id of the runs' score."""
    end = ".exclude_self"
    variants = dict.fromkeys(v for run in runs for v in run.scores if v.startswith(REAL))
    return {
        variant.removeprefix(REAL).removesuffix(end): subject_means(runs, variant)
        for variant in variants
        if variant.endswith(end)
    }


def _agree(first: Mapping[str, Mapping[str, float]], second: Mapping[str, Any]) -> bool:
    """Tell whether two groups have the same score wherever both have one."""
    return all(
        math.isclose(value, second[variant][name], abs_tol=1e-6)
        for variant, values in first.items()
        for name, value in values.items()
        if name in second.get(variant, ())
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
    members = {row.name: group for row, group in rows}
    for row in compared:
        if row.baseline and row.differences:
            yield from _scored_otherwise(row, members[row.name], members[row.baseline])


def _scored_otherwise(
    row: Row, own: Sequence[ScoredRun], baseline: Sequence[ScoredRun]
) -> Iterator[str]:
    """Warn where a row was scored in another way than its baseline under the same ids."""
    keys = [key for key in varying([*own, *baseline]) if key in SCORING or key.endswith(".weights")]
    if keys:
        what = ", ".join(short(key) for key in keys)
        yield f"{row.name} was scored otherwise than {row.baseline}: they differ in {what}."
