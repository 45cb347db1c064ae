"""Finished runs under their scores, as reports compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import PROTOCOL
from dreambooth.evaluation.record import TRAINING, TRAINING_AND_OTHER
from dreambooth.evaluation.write import AGAIN, scores_folder
from dreambooth.files import reading
from dreambooth.study.finished.runs import Run, find_runs
from dreambooth.study.finished.sweeps import Unfinished
from dreambooth.training.resuming.fingerprint import flat

# what images depend on beside the trained model, in metrics.json
DRAWN = (
    "sampler",
    "options",
    "steps",
    "guidance_scale",
    "resolution",
    "negative_prompt",
    "dtype",
    "dtypes",
)


@dataclass(frozen=True)
class ScoredRun:
    """A finished run under one evaluation's scores, as reports compare it.

    `name` is its folder below the report's. `metrics` is the metrics.json; a run that was not
    scored has none of it. `settings` holds the flat configuration and, under `scored.*`, what the
    scores depend on beside it; `written` the same before references between keys (`${lr}`) were
    resolved. `scores`, `intervals` (95 %, those scores alone that have one) and `metric_names` are
    by variant id.
    """

    run: Run
    name: str
    metrics: Mapping[str, Any]
    settings: Mapping[str, Any]
    written: Mapping[str, Any]
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    metric_names: Mapping[str, str]

    @property
    def subject(self) -> str:
        """The subject's name."""
        return str(self.settings.get("subject.name"))

    @classmethod
    def read(cls, folder: Path, name: str, evaluation: str | None) -> ScoredRun:
        """Read a run and its scores.

        Raises:
            UserError: a record that cannot be read.
        """
        run = Run.read(folder)
        metrics = run.metrics(evaluation)
        scores = scores_folder(folder, str(metrics.get("evaluation"))) / "metrics.json"
        with reading(scores, AGAIN):
            scored, summary = scored_with(metrics), metrics.get("scores", {})
            means = {variant: float(entry["mean"]) for variant, entry in summary.items()}
            names = {variant: str(entry["metric"]) for variant, entry in summary.items()}
            intervals = {
                variant: _pair(entry["interval_95"])
                for variant, entry in summary.items()
                if entry.get("interval_95")
            }
        with run.reading():
            settings, written = flat(run.config) | scored, flat(run.record["written"]) | scored
            for key in ("seconds", "peak_memory_gib"):
                float(run.record["costs"][key])
        run.last_losses()  # refuses a log that has changed, as does the curve
        run.curve()
        return cls(run, name, metrics, settings, written, means, intervals, names)

    def with_score(self, variant: str, metric: str, value: float) -> ScoredRun:
        """Return this run with one more score."""
        scores, names = {**self.scores, variant: value}, {**self.metric_names, variant: metric}
        return replace(self, scores=scores, metric_names=names)


def _pair(interval: Sequence[float]) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


def read_readable(
    folder: Path, evaluation: str | None = None
) -> tuple[list[ScoredRun], list[Unfinished]]:
    """Read every finished run below a folder whose record is whole; say of the others why not."""
    runs, others = [], []
    for path in find_runs(folder):
        name = _name(path, folder)
        try:
            runs.append(ScoredRun.read(path, name, evaluation))
        except UserError as error:
            others.append(Unfinished(name, "unreadable", str(error)))
    return runs, others


def read_runs(folder: Path, evaluation: str | None = None) -> list[ScoredRun]:
    """Read every finished run below a folder, under one evaluation's scores.

    Args:
        evaluation: as in `Run.metrics`.

    Raises:
        UserError: a record that cannot be read.
    """
    return [ScoredRun.read(path, _name(path, folder), evaluation) for path in find_runs(folder)]


def _name(run: Path, folder: Path) -> str:
    """Name a run by its place below a folder; one that is the folder itself, as that is called."""
    return folder.resolve().name if run == folder else str(run.relative_to(folder))


def scored_with(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """List what scores depend on beside the trained model, where their variant ids do not say it.

    A network that an evaluation had no use for is not compared.
    """
    if not metrics:
        return {}
    protocol, drawn = metrics.get("protocol", {}), metrics.get("provenance", {})
    networks = {k: v for k, v in metrics["encoders"].items() if isinstance(v, dict)}
    what = metrics["references"]["what"]
    scored = {
        "name": metrics["evaluation"],
        **{key: protocol.get(key) for key in (*PROTOCOL, "templates")},
        **{key: drawn.get(key) for key in DRAWN},
        # all of a subject's, of which a run may train on some: the same photos
        "references": TRAINING if what == TRAINING_AND_OTHER else what,
        **{f"{name}.weights": network.get("weights") for name, network in networks.items()},
    }
    return {f"scored.{key}": value for key, value in scored.items()}
