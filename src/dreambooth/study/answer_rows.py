"""Build a study's answer from its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dreambooth.study.answer import Answer, Row
from dreambooth.study.columns import columns_of
from dreambooth.study.paired import Mean, means, paired_differences
from dreambooth.study.pareto import fronts
from dreambooth.study.published import PublishedRow, Study
from dreambooth.study.scored_runs import ScoredRun, Unfinished
from dreambooth.study.settings import OVER, chosen, grouped, in_order, short, varying

REAL = "real images"
# what scores depend on beside the model, where an id does not say it: see `scored_with`
PROTOCOL = ("name", "prompts", "images_per_prompt", "class_images", "templates", "references")

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
    rows = _published_rows(study) if study else []
    taken = {id(run) for _, members in rows for run in members}
    own = _own_rows([run for run in runs if id(run) not in taken], runs)
    has_source = study is not None and any(not row.real for row in study.published.rows)
    if has_source:
        baselines = [row for row, _ in rows if row.name.startswith(_first(study).name)]
    else:
        baselines = _first_value(runs, [row for row, _ in own])
    rows = [*rows, *own]
    compared = [_with_differences(row, baselines) for row, _ in rows]
    published = study.published if study else None
    return Answer(
        published,
        tuple(columns_of(runs, published)),
        (*compared, *_real_rows(runs, study)),
        fronts([(row.name, members, row.scores) for row, members in rows]),
        tuple(_notes(runs, study, rows, baselines)),
        tuple(unfinished),
    )
