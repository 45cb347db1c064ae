"""Photos scored among themselves: what a perfect copy of the subject would reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.study.answers.answer import Row
from dreambooth.study.answers.paired import Mean, subject_means
from dreambooth.study.answers.published import Study
from dreambooth.study.answers.settings import grouped, varying, words
from dreambooth.study.finished.scored_runs import ScoredRun

REAL = "real_ref."  # how the ids of the photos' own scores begin


def real_rows(runs: Sequence[ScoredRun], study: Study | None) -> list[Row]:
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
    return [
        Row(
            name if len(kinds) == 1 else f"{name}, {words(setting)}",
            "real",
            setting={} if len(kinds) == 1 else setting,
            runs=tuple(run.name for run in members),
            subjects=tuple(sorted({run.subject for run in members})),
            scores={variant: Mean.over(values) for variant, values in _real(members).items()},
            published=published,
        )
        for setting, members in kinds
    ]


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
    """Tell whether two groups have scores of the same subjects, and the same ones."""
    pairs = [
        (value, second[variant][name])
        for variant, values in first.items()
        for name, value in values.items()
        if name in second.get(variant, ())
    ]
    return bool(pairs) and all(math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)
