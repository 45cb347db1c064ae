"""Means over subjects, and paired differences of two settings over the subjects that both have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambooth.metrics.aggregate import bootstrap_interval, macro
from dreambooth.study.finished.scored_runs import ScoredRun

BOOTSTRAP_SEED = 0
ENOUGH = 6  # subjects; n of them agree in sign by chance with probability 2 * 0.5^n


@dataclass(frozen=True)
class Mean:
    """A mean over subjects, with equal weights.

    `interval` is its 95 % bootstrap interval, for which whole subjects are drawn; None for one
    subject. `per_subject` has what was averaged.
    """

    value: float
    interval: tuple[float, float] | None
    per_subject: Mapping[str, float]

    @classmethod
    def over(cls, per_subject: Mapping[str, float]) -> Mean:
        """Average one value per subject, of which there is at least one."""
        ordered = dict(sorted(per_subject.items()))
        interval = bootstrap_interval(list(ordered.values()), list(ordered), seed=BOOTSTRAP_SEED)
        return cls(macro(ordered), interval, ordered)

    @property
    def subjects(self) -> int:
        """How many subjects were averaged."""
        return len(self.per_subject)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above or below 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def decides(self) -> bool:
        """Whether it excludes 0 over enough subjects for that not to be chance."""
        return self.excludes_zero and self.subjects >= ENOUGH


def subject_means(runs: Sequence[ScoredRun], variant: str) -> dict[str, float]:
    """Compute each subject's mean over its runs (seeds) of one variant; unscored runs are left out.

    >>> subject_means([], "clip_i.b32.allpairs.macro")
    {}
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        if variant in run.scores:
            values.setdefault(run.subject, []).append(run.scores[variant])
    return {name: math.fsum(scores) / len(scores) for name, scores in values.items()}


def means(runs: Sequence[ScoredRun]) -> dict[str, Mean]:
    """Average every variant that a run has over subjects: variant id => mean."""
    variants = dict.fromkeys(variant for run in runs for variant in run.scores)
    return {variant: Mean.over(subject_means(runs, variant)) for variant in variants}


def as_columns(scores: Mapping[str, Mean]) -> dict[str, float | int | None]:
    """Write means as the columns of a CSV: a variant's mean, `.low_95`, `.high_95`, `.subjects`."""
    columns: dict[str, float | int | None] = {}
    for variant, mean in scores.items():
        low, high = mean.interval or (None, None)
        columns |= {variant: mean.value, f"{variant}.low_95": low, f"{variant}.high_95": high}
        columns[f"{variant}.subjects"] = mean.subjects
    return columns


def paired_differences(scores: Mapping[str, Mean], baseline: Mapping[str, Mean]) -> dict[str, Mean]:
    """Average, over the subjects that both have, each subject's score minus its baseline score.

    A variant that one of them lacks, or that has no subject in common, has no difference.
    """
    differences = {}
    for variant in scores.keys() & baseline.keys():
        own, other = scores[variant].per_subject, baseline[variant].per_subject
        common = {name: own[name] - other[name] for name in own if name in other}
        if common:
            differences[variant] = Mean.over(common)
    return {variant: differences[variant] for variant in scores if variant in differences}
