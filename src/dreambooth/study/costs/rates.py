"""What a unit of a run's work costs, as measured in finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dreambooth.study.costs.plan import Work, final_samples, scored_images

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Rates:
    """What a unit of work costs.

    Args:
        train: seconds for a training image.
        draw: seconds for a denoising step of an image.
        score: seconds to score an image, beside drawing it.
        other: seconds of a run for everything else, such as loading and exporting.
        memory_gib: peak.
    """

    train: float
    draw: float
    score: float
    other: float
    memory_gib: float

    @classmethod
    def of_record(cls, record: Plain) -> Rates:
        """Read the rates of a finished run from its run.json.

        Raises:
            ValueError: a run that did not train all of its steps itself, in one session.
        """
        config, costs = record["config"], record["costs"]
        stages, work = costs["stages"], Work.of([config])
        steps = config["sampling"]["num_inference_steps"]
        draw = stages["samples"]["seconds"] / final_samples(config) / steps
        images, train = 0, 0.0
        for training in work.trainings:
            phase = costs[f"phase_{training.number}"]
            if phase["steps"] != training.steps:
                raise ValueError
            images += phase["steps"] * training.images_per_step
            train += phase["seconds"] - (training.samples + training.scored) * draw * steps
        scored, score = scored_images(config), 0.0
        if scored and "evaluation" in stages:
            score = max(0.0, stages["evaluation"]["seconds"] / scored - draw * steps)
        other = costs["seconds"] - sum(stage["seconds"] for stage in stages.values())
        other += sum(stages[n]["seconds"] for n in ("export", "verification") if n in stages)
        return cls(train / images, draw, score, other, costs["peak_memory_gib"])

    @classmethod
    def median_of(cls, several: Sequence[Rates]) -> Rates:
        """Return the median of each rate, and the highest peak."""
        middle = {key: median(vars(each)[key] for each in several) for key in vars(several[0])}
        return cls(**{**middle, "memory_gib": max(each.memory_gib for each in several)})


# `train.py subject=dog` with the embedded model on one core of an Intel Xeon, November 2026
POCKET = Rates(train=0.033, draw=0.011, score=0.03, other=2.0, memory_gib=1.3)
POCKET_SIDE = 64  # its resolution
