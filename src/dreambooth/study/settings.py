"""Finished runs as data: what was set, what was scored, what belongs together."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreambooth.cli import resolvers  # noqa: F401  registers them
from dreambooth.errors import UserError
from dreambooth.metrics.aggregate import bootstrap_interval, macro

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
# do not change a result; what an evaluation was is compared as `scored.*`
NOT_SETTINGS = (
    "output_dir",
    "cache_dir",
    "logger",
    "resume",
    "evaluation",
    "samples",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "experiment",
)
CURVE = ("evaluation.every_n_steps", "evaluation.curve")  # with checkpoint.best they choose a step


def find_runs(folder: Path) -> list[Path]:
    """Every finished run below a folder, sorted."""
    return sorted(path.parent for path in Path(folder).rglob("run.json"))


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """A row a run: `run`, `settings` (flat), `scores` by variant id, and its costs.

    `settings` holds the configuration and, under `scored.*`, what the scores depend on beside it;
    `written` the same before references between keys (`${lr}`) were resolved.
    """
    rows = []
    for run in find_runs(folder):
        record = json.loads((run / "run.json").read_text())
        metrics = _json(run / "metrics.json")
        scored = scored_with(metrics)
        rows.append(
            {
                "run": str(run.relative_to(folder)),
                "folder": run,
                "record": record,
                "metrics": metrics,
                "settings": flat(config_of(run, record)) | scored,
                "written": flat(config_of(run, record, resolve=False)) | scored,
                "scores": {v: entry["mean"] for v, entry in metrics.get("scores", {}).items()},
                "names": {v: entry["metric"] for v, entry in metrics.get("scores", {}).items()},
                "losses": last_logged(run / "metrics.csv", ("loss/instance", "loss/prior")),
            }
        )
    return rows


def config_of(run: Path, record: dict, resolve: bool = True) -> dict:
    """The configuration that a run ended with, as plain values.

    Hydra's own notes in `.hydra` are of the last command, which may have been refused.

    Raises:
        UserError: a record without one.
    """
    if "config" not in record:
        raise UserError(
            f"{run / 'run.json'} holds no configuration, for an earlier version wrote it: repeat "
            "the command that made it, in the same folder; nothing is trained again."
        )
    config = OmegaConf.create(record["config"])
    config.output_dir = str(run)  # Hydra alone could resolve it
    return OmegaConf.to_container(config, resolve=resolve)


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
    """Settings that differ between rows of `read_runs`, and that no other one implies.

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
        dropped = _is_under(key, NOT_SETTINGS) and not _is_under(key, CURVE)
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


def last_logged(path: Path, columns: tuple[str, ...]) -> dict[str, float]:
    """The last value of each column of a metrics.csv that has one."""
    last: dict[str, float] = {}
    if path.exists():
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                last |= {c: round(float(line[c]), 4) for c in columns if line.get(c)}
    return last


def _written(run: dict, key: str) -> str:
    """A key's own value or reference, or those of the block that it is in."""
    while key and key not in run["written"]:
        key = key.rpartition(".")[0]
    return json.dumps(run["written"].get(key))


def _is_under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}
