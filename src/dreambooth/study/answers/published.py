"""What a study asks and what its source measured: the `published` block of a configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreambooth.study.finished.scored_runs import ScoredRun


@dataclass(frozen=True)
class PublishedRow:
    """A row of the source's table.

    `setting` is by dotted key; `scores` by the source's name of the metric. `real` marks the row of
    the photos among themselves, to which no run belongs.
    """

    name: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    real: bool = False


@dataclass(frozen=True)
class Published:
    """A study's question and its source's numbers; every text may be empty.

    `variants` says for each of the source's metrics what was computed, in words or as an id. The
    first of `rows` is the baseline of differences. `finding` is what the source reports in words.
    """

    title: str = ""
    question: str = ""
    source: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[PublishedRow] = ()
    finding: str = ""

    @classmethod
    def from_plain(cls, block: Mapping[str, Any]) -> Published:
        """Read the block as configurations have it; a missing part is empty, as is no number."""
        texts = {key: str(block.get(key) or "") for key in ("title", "question", "source")}
        rows = [
            PublishedRow(
                str(row.get("name", "")),
                row.get("setting") or {},
                {k: v for k, v in (row.get("scores") or {}).items() if isinstance(v, int | float)},
                bool(row.get("real")),
            )
            for row in block.get("rows") or ()
        ]
        variants = {name: str(v) for name, v in (block.get("variants") or {}).items()}
        return cls(**texts, variants=variants, rows=rows, finding=str(block.get("finding") or ""))


@dataclass(frozen=True)
class Study:
    """The published block that a report shows, and which of its rows each run belongs to.

    `table` has the rows of settings, which leaves out that of real images, each with its runs;
    `note` is one sentence where the runs do not agree on the block.
    """

    published: Published
    table: Sequence[tuple[PublishedRow, Sequence[ScoredRun]]]
    note: str | None

    @classmethod
    def read(cls, runs: Sequence[ScoredRun]) -> Study | None:
        """Read the block from the runs' records; the newest run's where they differ.

        A setting such as `lr: ${model.recommended.full.lr}` has another value in every model: a run
        that was written with the same block is compared with the values in its own record.
        """
        having = [run for run in runs if isinstance(run.run.config.get("published"), Mapping)]
        if not having:
            return None
        newest = max(having, key=lambda run: (run.run.written_at, run.name))
        own = {id(run) for run in having if _as_written(run) == _as_written(newest)}
        block = newest.run.config["published"]
        published = Published.from_plain(block)
        members: list[list[ScoredRun]] = [[] for _ in published.rows]
        for run in runs:
            rows = Published.from_plain(run.run.config["published"]).rows if id(run) in own else ()
            for number, row in enumerate(rows or published.rows):
                if _belongs(run, row.setting):
                    members[number].append(run)
        note = None
        if len(own) < len(having):
            note = (
                f"The runs were made with different `published` blocks; this is that of the newest "
                f"run, {newest.name}."
            )
        pairs = zip(published.rows, members, strict=True)
        return cls(published, [pair for pair in pairs if not pair[0].real], note)


def _as_written(run: ScoredRun) -> str:
    return json.dumps(run.run.record["written"].get("published"), sort_keys=True)


def _belongs(run: ScoredRun, setting: Mapping[str, Any]) -> bool:
    """Tell whether a run has every value of a row's setting."""
    return all(
        key in run.settings and _equal(run.settings[key], value) for key, value in setting.items()
    )


def _equal(first: Any, second: Any) -> bool:
    """Compare two configured values; floats within rounding, and true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-9)
    return first == second
