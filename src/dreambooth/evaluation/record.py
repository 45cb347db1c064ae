"""What an evaluation finds: a row per image, a summary per variant, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreambooth.metrics.aggregate import bootstrap_interval, mean
from dreambooth.metrics.preprocess import ImageLike

BOOTSTRAP_SEED = 0
# what photos are called that scores compare with
TRAINING, TRAINING_AND_OTHER = "training photos", "training and other photos"


@dataclass(frozen=True)
class Groups:
    """What a bootstrap interval draws whole: the group of each value, and what a group is."""

    names: list[str]
    what: str


@dataclass
class Scores:
    """The scores of one subject's images.

    `rows` says what each image is and its scores by variant id; `summary` holds one record per
    variant; `notes` are sentences on what was not scored.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        variant: str,
        metric: str,
        rows: Sequence[dict[str, Any]],
        scores: Iterable[float] | Tensor,
        groups: Groups | None,
        **counts: int,
    ) -> None:
        """Record a variant's score of each row, and their mean."""
        values = [float(score) for score in scores]
        for row, value in zip(rows, values, strict=True):
            row[variant] = value
        self.summarise(variant, metric, values, groups, {"images": len(rows), **counts})

    def summarise(
        self,
        variant: str,
        metric: str,
        values: list[float],
        groups: Groups | None,
        counts: dict[str, int],
        mean_over: str = "images",
    ) -> None:
        """Record the mean of `values` and its 95 % bootstrap interval over whole groups."""
        interval = None
        if groups is not None:
            interval = bootstrap_interval(values, groups.names, seed=BOOTSTRAP_SEED)
        over = groups.what if groups else None
        value = mean(torch.tensor(values, dtype=torch.float64))
        self.record(variant, metric, value, interval, over, mean_over, counts)

    def record(
        self,
        variant: str,
        metric: str,
        value: float,
        interval: tuple[float, float] | None,
        interval_over: str | None,
        mean_over: str,
        counts: Mapping[str, int],
    ) -> None:
        """Record a score whose interval is known."""
        self.summary[variant] = {
            "metric": metric,
            "mean": value,
            "mean_over": mean_over,
            "interval_95": interval,
            "interval_over": interval_over if interval else None,
            **counts,
        }


@dataclass(frozen=True)
class Part:
    """Images of one kind (of the subject, of the class, or the photos), each with its row."""

    rows: list[dict[str, Any]]
    images: list[ImageLike]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each image."""
        return [row["prompt"] for row in self.rows]

    @property
    def by_prompt(self) -> Groups:
        """Every prompt's images as one group."""
        return Groups(self.prompts, "prompts")


@dataclass(frozen=True)
class References:
    """What the images of a subject are compared with.

    `photos` are its own. `gallery` has those of the other subjects of its class, by name, and
    `base` the base model's images of class prompts, by prompt, in the order of their seeds; both
    may be empty.
    """

    photos: Sequence[Path]
    gallery: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    base: Mapping[str, Sequence[Path]] = field(default_factory=dict)
