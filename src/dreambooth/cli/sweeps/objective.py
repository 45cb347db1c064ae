"""The number that a run returns to a Hydra sweeper: `objective=harmonic`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dreambooth.errors import UserError

# objective => names of the metrics that it needs, as scores are summarised
METRICS = {
    "dino": ("DINO",),
    "clip_i": ("CLIP-I",),
    "clip_t": ("CLIP-T class_only",),
    "pres": ("PRES",),
    "div": ("DIV",),
    "harmonic": ("DINO", "CLIP-T class_only"),
}


def check_objective(objective: object, metrics: Collection[str]) -> None:
    """Refuse an objective that a run would not compute; `metrics` are `evaluation.metrics`.

    Raises:
        UserError: an unknown objective, or metrics that are not computed.
    """
    if objective is None:
        return
    if objective not in METRICS:
        raise UserError(
            f"objective={objective} does not exist: choose {', '.join(METRICS)} or null."
        )
    needed = ("dino", "clip_t") if objective == "harmonic" else (str(objective),)
    lacking = [metric for metric in needed if metric not in metrics]
    if lacking:
        raise UserError(
            f"objective={objective} needs {' and '.join(lacking)}, which the evaluation does not "
            "compute: use evaluation=quick, or add them to evaluation.metrics."
        )


def objective_of(objective: str, summary: Mapping[str, Mapping[str, Any]]) -> float:
    """Return a run's mean score, or the harmonic mean of DINO and CLIP-T (class_only).

    Args:
        objective: one of `METRICS`.
        summary: variant id => a record with its `metric` and `mean`, as in metrics.json.

    Raises:
        UserError: the run has no such score.
    """
    means = {record["metric"]: float(record["mean"]) for record in summary.values()}
    lacking = [metric for metric in METRICS[objective] if metric not in means]
    if lacking:
        raise UserError(
            f"objective={objective}: this run has no score of {' and '.join(lacking)}, as its "
            "warnings explain."
        )
    values = [means[metric] for metric in METRICS[objective]]
    if objective != "harmonic":
        return values[0]
    from dreambooth.metrics.aggregate import harmonic_mean  # imports torch

    return harmonic_mean(*values)
