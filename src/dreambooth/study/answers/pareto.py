"""Pareto fronts of subject fidelity (DINO) against prompt fidelity (CLIP-T `class_only`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth.metrics.aggregate import pareto_front
from dreambooth.study.answers.paired import Mean
from dreambooth.study.finished.scored_runs import ScoredRun


@dataclass(frozen=True)
class FrontPoint:
    """A setting's scores, as means over subjects, at the end (`step` None) or while training."""

    row: str
    step: int | None
    subject: float
    prompt: float
    on_front: bool


@dataclass(frozen=True)
class Front:
    """All points of one pair of variants, and which of them no other point dominates.

    `over` says what the points are: `rows` (settings) or `steps` (of the settings' curves, which
    are drawn from a small set of prompts).
    """

    over: Literal["rows", "steps"]
    subject_variant: str
    prompt_variant: str
    points: tuple[FrontPoint, ...]

    @property
    def best(self) -> tuple[FrontPoint, ...]:
        """The points on the front."""
        return tuple(point for point in self.points if point.on_front)


Values = tuple[str, int | None, Mapping[str, float]]  # row, step, scores by variant id


def fronts(
    rows: Sequence[tuple[str, Sequence[ScoredRun], Mapping[str, Mean]]],
) -> tuple[Front, ...]:
    """Find the fronts over settings, and over the steps of their curves.

    Args:
        rows: each setting's name, runs and scores.

    Returns:
        a front for each pair of variants that two points or more have; none for fewer.
    """
    ends = [(name, None, {v: mean.value for v, mean in means.items()}) for name, _, means in rows]
    steps = [point for name, runs, _ in rows for point in _curve(name, runs)]
    return (*_fronts("rows", ends), *_fronts("steps", steps))


def _fronts(over: Literal["rows", "steps"], points: Sequence[Values]) -> Iterable[Front]:
    variants = dict.fromkeys(variant for _, _, scores in points for variant in scores)
    for subject in [v for v in variants if v.startswith("dino.")]:
        for prompt in [v for v in variants if v.startswith("clip_t.") and ".class_only." in v]:
            having = [p for p in points if subject in p[2] and prompt in p[2]]
            if len(having) > 1:
                best = set(pareto_front([(p[2][subject], p[2][prompt]) for p in having]))
                found = (
                    FrontPoint(name, step, scores[subject], scores[prompt], number in best)
                    for number, (name, step, scores) in enumerate(having)
                )
                yield Front(over, subject, prompt, tuple(found))


def _curve(name: str, runs: Sequence[ScoredRun]) -> Iterable[Values]:
    """Average a setting's curves over subjects, at the steps after 0 that every curve has.

    Step 0 is the model before training, which is no choice.
    """
    curves = [(run.subject, {row["step"]: row for row in run.run.curve()}) for run in runs]
    curves = [(subject, curve) for subject, curve in curves if curve]
    steps = set.intersection(*(set(curve) for _, curve in curves)) if curves else set()
    for step in sorted(steps - {0}):
        scores = {}
        for variant in curves[0][1][step].keys() - {"step", "harmonic_mean"}:
            values: dict[str, list[float]] = {}
            for subject, curve in curves:
                values.setdefault(subject, []).append(curve[step].get(variant, math.nan))
            means = [math.fsum(v) / len(v) for v in values.values()]
            if not any(math.isnan(mean) for mean in means):  # a curve without it: other variants
                scores[variant] = math.fsum(means) / len(means)
        yield name, int(step), scores
