"""What each setting of a grid changes, all else equal: differences over pairs that match."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.study.answers.paired import subject_means
from dreambooth.study.answers.settings import chosen
from dreambooth.study.finished.scored_runs import ScoredRun

Pair = tuple[Sequence[ScoredRun], Sequence[ScoredRun]]


@dataclass(frozen=True)
class Spread:
    """The mean of differences, the least and the greatest of them, and how many there are."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_one_sign(self) -> bool:
        """Whether all differences are above 0, or all below."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Effect:
    """Another value of one setting: `differences` by variant id are from `base`, its first value.

    `pairs` counts the settings and subjects that have runs with both values.
    """

    key: str
    base: Any
    value: Any
    pairs: int
    differences: Mapping[str, Spread]


def effects(runs: Sequence[ScoredRun]) -> tuple[Effect, ...]:
    """Compare the values of each setting over the runs that differ in nothing else.

    The runs are in the order of their settings. A pair is one subject under one choice of the other
    settings; seeds are averaged before. Only grids have effects: two settings or more that vary,
    of which a value has at least two pairs.
    """
    keys = chosen(runs)
    if len(keys) < 2:
        return ()
    found = []
    for key in keys:
        base, *others = dict.fromkeys(_text(run, key) for run in runs)
        groups = _matched(runs, key, keys)
        for value in others:
            pairs = [(group[value], group[base]) for group in groups if {value, base} <= {*group}]
            if len(pairs) > 1 and (differences := _differences(pairs)):
                found.append(
                    Effect(key, json.loads(base), json.loads(value), len(pairs), differences)
                )
    return tuple(found)


def _text(run: ScoredRun, key: str) -> str:
    return json.dumps(run.settings.get(key))


def _matched(
    runs: Sequence[ScoredRun], key: str, keys: Sequence[str]
) -> list[dict[str, list[ScoredRun]]]:
    """Group runs that differ in `key` and the seed alone, by their value of `key`."""
    groups: dict[tuple[str, ...], dict[str, list[ScoredRun]]] = {}
    for run in runs:
        rest = tuple(_text(run, other) for other in ("subject.name", *keys) if other != key)
        groups.setdefault(rest, {}).setdefault(_text(run, key), []).append(run)
    return list(groups.values())


def _differences(pairs: Sequence[Pair]) -> dict[str, Spread]:
    spreads = {}
    for variant in dict.fromkeys(v for own, _ in pairs for run in own for v in run.scores):
        values = []
        for own, base in pairs:
            ours, theirs = (subject_means(runs, variant) for runs in (own, base))
            values += [ours[name] - theirs[name] for name in ours if name in theirs]
        if values:
            mean = math.fsum(values) / len(values)
            spreads[variant] = Spread(mean, min(values), max(values), len(values))
    return spreads
