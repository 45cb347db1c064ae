"""What varies between runs, and the means of each setting over subjects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from dreambooth.metrics.aggregate import bootstrap_interval, macro
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
OVER = ("subject.name", "seed")  # what a setting's mean runs over
# of metrics.json
PROTOCOL = ("prompts", "templates", "images_per_prompt", "class_images", "class_seed")
DRAWN = (
    "sampler",
    "options",
    "steps",
    "guidance_scale",
    "resolution",
    "negative_prompt",
    "dtypes",
)
CURVE = ("evaluation.every_n_steps", "evaluation.curve")  # with checkpoint.best they choose a step


def scored_with(metrics: dict) -> dict[str, Any]:
    """What scores depend on and their variant ids do not say: all of it but the trained model.

    A network that an evaluation had no use for is not compared.
    """
    if not metrics:
        return {}
    made = {k: metrics.get("provenance", {}).get(k) for k in DRAWN}
    drawn = {k: metrics.get("protocol", {}).get(k) for k in PROTOCOL}
    networks = {k: v for k, v in metrics["encoders"].items() if isinstance(v, dict)}
    scored = {
        "name": metrics["evaluation"],
        **drawn,
        **made,
        "references": metrics["references"]["what"],
        **{f"{name}.weights": network.get("weights") for name, network in networks.items()},
    }
    return {f"scored.{key}": value for key, value in scored.items()}


def varying(runs: Sequence[dict]) -> list[str]:
    """Settings that differ between rows of `read_rows`, and that no other one implies.

    Left out is what every run's configuration writes alike, for its value follows from another
    key, and what the name of a choice (`subject.name` for `subject.*`) tells.
    """
    present = {key for run in runs for key in run["settings"]}
    kept = []
    for key in (*WORDS, *sorted(present.difference(WORDS))):
        # a run may have no scores
        having = [r for r in runs if key in r["settings"] or not key.startswith("scored.")]
        if len({json.dumps(run["settings"].get(key)) for run in having}) < 2:
            continue
        name, written = f"{key.partition('.')[0]}.name", [_written(run, key) for run in having]
        names = [run["settings"].get(name) for run in having]
        told = key != name and len(set(zip(names, written, strict=True))) == len(set(names)) > 1
        alike = len(set(written)) == 1
        dropped = is_under(key, NEITHER) and not is_under(key, CURVE)
        if key in WORDS or not (told or alike or dropped):
            kept.append(key)
    return kept


def by_setting(rows: Sequence[dict], keys: Iterable[str]) -> list[dict[str, Any]]:
    """A row a setting: means over subjects of each variant, with intervals over subjects.

    A subject's value is the mean over its runs (seeds). Only the subjects that a variant was scored
    for enter its mean, and their number is kept as `<variant>.subjects`.
    """
    names = [key for key in keys if key not in OVER]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        values = tuple(json.dumps(row["settings"].get(key)) for key in names)
        groups.setdefault(values, []).append(row)
    table = []
    for members in groups.values():
        line = {key: members[0]["settings"].get(key) for key in names}
        subjects = {row["settings"].get("subject.name") for row in members}
        line |= {"subjects": len(subjects), "runs": len(members)}
        for variant in dict.fromkeys(v for row in members for v in row["scores"]):
            per_subject: dict[str, list[float]] = {}
            for row in members:
                if variant in row["scores"]:
                    name = str(row["settings"].get("subject.name"))
                    per_subject.setdefault(name, []).append(row["scores"][variant])
            means = {name: sum(v) / len(v) for name, v in per_subject.items()}
            interval = bootstrap_interval(list(means.values()), list(means), seed=0)
            line[variant] = macro(means)
            line[f"{variant}.low_95"], line[f"{variant}.high_95"] = interval or (None, None)
            line[f"{variant}.subjects"] = len(means)
        table.append(line)
    return table


def flat(value: dict, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` => `{"a.b": 1}`; lists stay whole."""
    result = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        result |= flat(inner, f"{name}.") if isinstance(inner, dict) else {name: inner}
    return result


def _written(run: dict, key: str) -> str:
    """A key's own value or reference, or those of the block that it is in."""
    while key and key not in run["written"]:
        key = key.rpartition(".")[0]
    return json.dumps(run["written"].get(key))
