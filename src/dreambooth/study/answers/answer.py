"""A study's answer: our scores by setting, differences with intervals, and published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dreambooth.study.answers.columns import Column
from dreambooth.study.answers.effects import Effect
from dreambooth.study.answers.paired import Mean
from dreambooth.study.answers.pareto import Front
from dreambooth.study.answers.published import Published
from dreambooth.study.finished.sweeps import Unfinished


@dataclass(frozen=True)
class Row:
    """One setting: a row of the source's table, a setting that is in none, or the real images.

    A row of the kind `source` has the source's numbers alone, for no run here could belong to it.

    `setting` is what its runs share, by dotted key; `others` the part of it that tells the row from
    rows of the same published name. `runs` are the folders of its runs; none means that it was not
    run. `scores` are by variant id, `published` by the source's names of metrics. `baseline` names
    the row that `differences` are taken from; None for a baseline, and where there is none.
    """

    name: str
    kind: Literal["published", "setting", "real", "source"]
    setting: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    scores: Mapping[str, Mean] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None
    differences: Mapping[str, Mean] = field(default_factory=dict)
    published_differences: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Everything that an answer shows; `published` is None where no source was recorded.

    `effects` are those of a grid's settings, each over runs that differ in nothing else. `notes`
    are sentences that a reader must know, such as that runs do not agree on the source.
    """

    published: Published | None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    fronts: tuple[Front, ...] = ()
    effects: tuple[Effect, ...] = ()
    notes: tuple[str, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()

    @property
    def has_source(self) -> bool:
        """Whether rows have the names that a source gave."""
        return any(row.kind in ("published", "source") for row in self.rows)

    @property
    def adds_to_runs(self) -> bool:
        """Whether rows show more than the single runs do: means, differences, a source's names."""
        return self.has_source or any(
            row.differences or (len(row.runs) > 1 and row.kind != "real") for row in self.rows
        )

    def best(self, column: Column) -> float | None:
        """Return the best score of a column over the settings; None if fewer than two have one."""
        rows = [row for row in self.rows if row.kind != "real" and column.variant in row.scores]
        values = [row.scores[column.variant].value for row in rows]
        if len(values) < 2:
            return None
        return min(values) if column.lower_is_better else max(values)
