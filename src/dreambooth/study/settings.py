"""What varies between runs, and the means of each setting over subjects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from dreambooth.metrics.aggregate import bootstrap_interval, macro
from dreambooth.study.scored_runs import ScoredRun
from dreambooth.training.fingerprint import NEITHER, is_under

# shown first, and always kept apart
WORDS = (
    "subject.name",
    "model.name",
    "method.name",
    "ppl",
    "lr",
    "max_steps",
    "train_text_encoder",
    "scheduler.name",
    "seed",
)
OVER = ("subject.name", "seed")  # settings that are averaged over
CURVE = (
    "evaluation.every_n_steps",
    "evaluation.curve",
)  # with checkpoint.best or patience they choose a step


def varying(runs: Sequence[ScoredRun]) -> list[str]:
    """List the settings that differ between runs, and that no other setting implies."""
    present = {key for run in runs for key in run.settings}
    keys = (*WORDS, *sorted(present.difference(WORDS)))
    return [key for key in keys if _varies(key, runs)]


def _varies(key: str, runs: Sequence[ScoredRun]) -> bool:
    # a run that was not scored has no `scored.*`
    compared = [run for run in runs if key in run.settings or not key.startswith("scored.")]
    if len({json.dumps(run.settings.get(key)) for run in compared}) < 2:
        return False
    written = [_written(run, key) for run in compared]
    follows = len(set(written)) == 1  # written alike everywhere: its value is another key's
    changes_nothing = is_under(key, NEITHER) and not is_under(key, CURVE)
    implied = follows or changes_nothing or _goes_with_name(key, compared, written)
    return key in WORDS or not implied


def _written(run: ScoredRun, key: str) -> str:
    """Return a key's own value or reference, or those of the block that it is in."""
    while key and key not in run.written:
        key = key.rpartition(".")[0]
    return json.dumps(run.written.get(key))


def _goes_with_name(key: str, runs: Sequence[ScoredRun], written: Sequence[str]) -> bool:
    """Tell whether the name of a choice (`subject.name` for `subject.*`) implies a key's value."""
    name = f"{key.partition('.')[0]}.name"
    names = [run.settings.get(name) for run in runs]
    return key != name and len(set(zip(names, written, strict=True))) == len(set(names)) > 1


def by_setting(runs: Sequence[ScoredRun], keys: Iterable[str]) -> list[dict[str, Any]]:
    """Average the runs of each setting over subjects: one row per setting.

    A row holds the setting, the counts `subjects` and `runs`, and for each variant id its mean
    over subjects, `<variant>.low_95` and `.high_95` (bootstrap over subjects) and `.subjects`, the
    number of subjects that were scored.
    """
    names = [key for key in keys if key not in OVER]
    groups: dict[tuple, list[ScoredRun]] = {}
    for run in runs:
        values = tuple(json.dumps(run.settings.get(key)) for key in names)
        groups.setdefault(values, []).append(run)
    table = []
    for members in groups.values():
        row = {key: members[0].settings.get(key) for key in names}
        subjects = {run.settings.get("subject.name") for run in members}
        row |= {"subjects": len(subjects), "runs": len(members)}
        for variant in dict.fromkeys(v for run in members for v in run.scores):
            row |= _over_subjects(members, variant)
        table.append(row)
    return table


def _over_subjects(runs: Sequence[ScoredRun], variant: str) -> dict[str, Any]:
    """Average a variant over subjects; a subject's value is the mean over its runs (seeds)."""
    per_subject: dict[str, list[float]] = {}
    for run in runs:
        if variant in run.scores:
            name = str(run.settings.get("subject.name"))
            per_subject.setdefault(name, []).append(run.scores[variant])
    means = {name: sum(values) / len(values) for name, values in per_subject.items()}
    interval = bootstrap_interval(list(means.values()), list(means), seed=0)
    low, high = interval or (None, None)
    return {
        variant: macro(means),
        f"{variant}.low_95": low,
        f"{variant}.high_95": high,
        f"{variant}.subjects": len(means),
    }
