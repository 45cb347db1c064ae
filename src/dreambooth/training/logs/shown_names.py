"""Short, stable names under which viewers show numbers, so that the charts of all runs match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth.evaluation.record import Scores
from dreambooth.metrics.variants import short_id
from dreambooth.training.logs.run_log import CURVE

GROUPS = {"images_per_second": "speed", "memory_gib": "speed", "prior_weight": "loss"}


@dataclass(frozen=True)
class Shown:
    """The scores of one evaluation as viewers show them.

    Args:
        numbers: `score/dino` => mean; `score_NAME/dino` for an evaluation that is not the run's.
        variants: `dino` => the whole id of what was computed.
        columns: of `rows`.
        rows: of every scored image: its file, its prompt and seed, its scores.
        name: of the table that holds the rows.
    """

    numbers: Mapping[str, float]
    variants: Mapping[str, str]
    columns: list[str]
    rows: list[list[Any]]
    name: str


def shown_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Shorten the names of logged numbers: `curve/dino.vits16...` => `curve/dino`."""
    shown = {}
    for name, value in numbers.items():
        if name.startswith(CURVE):
            name = CURVE + short_id(name.removeprefix(CURVE))
        elif name in GROUPS:
            name = f"{GROUPS[name]}/{name}"
        shown[name] = value
    return shown


def shown_scores(scores: Scores, evaluation: str | None) -> Shown:
    """Name the scores of an evaluation; None is the run's own.

    Two variants of one metric, as of two encoders, get a number: `dino`, `dino_2`.
    """
    variants: dict[str, str] = {}
    for variant in scores.summary:
        if not variant.endswith(".include_self"):
            variants[_unused(short_id(variant), variants)] = variant
    folder = "score" if evaluation is None else f"score_{evaluation}"
    of_images = {k: v for k, v in variants.items() if not v.startswith("real_ref.")}
    given = ("file", "prompt", "set", "seed")
    rows = [row for row in scores.rows if row["set"] != "photo"]
    return Shown(
        {f"{folder}/{name}": scores.summary[v]["mean"] for name, v in variants.items()},
        variants,
        [*given, *of_images],
        [[*(row[k] for k in given), *(row.get(v) for v in of_images.values())] for row in rows],
        "images" if evaluation is None else f"images_{evaluation}",
    )


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name}_{number}", number + 1
    return unused
