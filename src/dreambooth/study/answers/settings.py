"""What varies between runs, and the means of each setting over subjects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dreambooth.quoting import printable
from dreambooth.study.answers.paired import as_columns, means
from dreambooth.study.finished.scored_runs import DRAWN, ScoredRun
from dreambooth.training.resuming.fingerprint import NEITHER, is_under

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
# settings that images are drawn with, which `scored.*` repeats for the images that were scored
DRAWING = ("model.name", "method.name", "resolution", "scheduler", "sampling", "trainer")
OVER = ("subject.name", "seed")  # settings that are averaged over
CURVE = (
    "evaluation.every_n_steps",
    "evaluation.curve",
)  # with checkpoint.best or patience they choose a step


def varying(runs: Sequence[ScoredRun]) -> list[str]:
    """List the settings that differ between runs, and that no other setting implies."""
    present = {key for run in runs for key in run.settings}
    keys = (*WORDS, *sorted(present.difference(WORDS)))
    keys = [key for key in keys if _differs(key, runs)]
    keys = [key for key in keys if key in WORDS or not _implied(key, runs)]
    drawing = [key for key in keys if is_under(key, DRAWING)]
    return [key for key in keys if not _drawn_by(key, drawing, runs)]


def chosen(runs: Sequence[ScoredRun]) -> list[str]:
    """List the settings that differ by choice: those of `varying` that are not averaged over.

    A learning rate that follows from the method, say, is none of them.
    """
    return [key for key in varying(runs) if key not in OVER and not _implied(key, runs)]


def in_order(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Sort runs by the settings that differ; a setting's subjects and seeds stand together."""
    keys = sorted(varying(runs), key=lambda key: key in OVER)
    return sorted(runs, key=lambda run: [_order(run.settings.get(key)) for key in keys])


def _order(value: Any) -> tuple:
    """Sort numbers by size, then anything else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if is_number else (1, 0, str(value))


def short(key: str) -> str:
    """Shorten a key for a heading.

    >>> short("subject.name"), short("sampling.guidance_scale"), short("scored.name")
    ('subject', 'guidance_scale', 'evaluation')
    """
    name = key.removesuffix(".name").removeprefix("scored.").removeprefix("sampling.")
    return "evaluation" if name == "scored" else name


def word(key: str, value: Any) -> str:
    """Write a setting's value for a table: numbers with up to four digits, nothing for None.

    >>> word("prior.weight", 0.30000000000000004), word("scheduler.name", "DDIMScheduler")
    ('0.3', 'DDIM')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else printable(str(value))
    return text.removesuffix("Scheduler") if key == "scheduler.name" else text


def words(setting: Mapping[str, Any]) -> str:
    """Write a setting for a reader.

    >>> words({"method.name": "lora", "lr": 0.0001})
    'method=lora, lr=0.0001'
    """
    return ", ".join(f"{short(key)}={word(key, value)}" for key, value in setting.items())


def _compared(key: str, runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """List the runs that have a key; a run that was not scored has no `scored.*`."""
    return [run for run in runs if key in run.settings or not key.startswith("scored.")]


def _differs(key: str, runs: Sequence[ScoredRun]) -> bool:
    values = {json.dumps(run.settings.get(key)) for run in _compared(key, runs)}
    return len(values) > 1


def _implied(key: str, runs: Sequence[ScoredRun]) -> bool:
    """Tell whether another setting implies a key's value, or nothing compared depends on it."""
    compared = _compared(key, runs)
    written = [_written(run, key) for run in compared]
    follows = len(set(written)) == 1  # written alike everywhere: its value is another key's
    changes_nothing = is_under(key, NEITHER) and not is_under(key, CURVE)
    return follows or changes_nothing or _goes_with_name(key, compared, written)


def _drawn_by(key: str, drawing: Sequence[str], runs: Sequence[ScoredRun]) -> bool:
    """Tell whether settings that are shown say what images were drawn and scored with.

    `scheduler` implies `scored.sampler`, say, but not where a run was scored again with another.
    """
    name, compared = key.removeprefix("scored."), _compared(key, runs)
    if name == key or not (name in DRAWN or name.endswith(".weights")):
        return False
    if name.endswith(".weights") and _share_an_id(key, compared):
        return False
    shown = [json.dumps([run.settings.get(other) for other in drawing]) for run in compared]
    values = [json.dumps(run.settings[key]) for run in compared]
    return len(set(zip(shown, values, strict=True))) == len(set(shown))


def _share_an_id(key: str, runs: Sequence[ScoredRun]) -> bool:
    """Tell whether runs with different values of a key have scores under one id."""
    pairs = {(variant, json.dumps(run.settings[key])) for run in runs for variant in run.scores}
    return len(pairs) > len({variant for variant, _ in pairs})


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


def grouped(
    runs: Sequence[ScoredRun], keys: Iterable[str]
) -> list[tuple[dict[str, Any], list[ScoredRun]]]:
    """Group runs by the values of `keys`, without those that are averaged over."""
    names = [key for key in keys if key not in OVER]
    groups: dict[tuple, list[ScoredRun]] = {}
    for run in runs:
        values = tuple(json.dumps(run.settings.get(key)) for key in names)
        groups.setdefault(values, []).append(run)
    return [
        ({key: members[0].settings.get(key) for key in names}, members)
        for members in groups.values()
    ]


def by_setting(runs: Sequence[ScoredRun], keys: Iterable[str]) -> list[dict[str, Any]]:
    """Average the runs of each setting over subjects: one row per setting.

    A row holds the setting, the counts `subjects` and `runs`, and for each variant id its mean
    over subjects, `<variant>.low_95` and `.high_95` (bootstrap over subjects) and `.subjects`, the
    number of subjects that were scored.
    """
    table = []
    for setting, members in grouped(runs, keys):
        counts = {"subjects": len({run.subject for run in members}), "runs": len(members)}
        table.append({**setting, **counts, **as_columns(means(members))})
    return table
