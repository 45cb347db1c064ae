"""From per-image scores to one number: means over shards and subjects, intervals, best step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dreambooth.errors import UserError


def sum_and_count(scores: Tensor) -> Tensor:
    """One shard's scores `[N]`, N >= 0 => `[sum, N]` float64, the form to add over ranks.

    Averaging the ranks' means instead is biased where shards are unequal.
    """
    values = scores.detach().to("cpu", torch.float64).flatten().tolist()
    return torch.tensor([math.fsum(values), len(values)], dtype=torch.float64)


def mean_of_sums(sums: Tensor) -> float:
    """`[2]` (already reduced) or `[W,2]` (one row a rank) of `sum_and_count` => the mean."""
    total, count = sums.reshape(-1, 2).sum(dim=0).tolist()
    if count == 0:
        raise UserError("there are no images to average: generate images before scoring them.")
    mean = total / count
    if not math.isfinite(mean):
        raise UserError("a score is NaN or infinite, so the mean says nothing: rescore the images.")
    return mean


def mean(scores: Tensor) -> float:
    """Mean of per-image scores `[N]`, the same for any order of images."""
    return mean_of_sums(sum_and_count(scores))


def macro(per_subject: Mapping[str, float]) -> float:
    """Mean over subjects of each subject's mean: subjects weigh alike whatever their counts."""
    return mean(torch.tensor(list(per_subject.values()), dtype=torch.float64))


def bootstrap_interval(
    scores: Tensor | Sequence[float],
    groups: Sequence[str],
    *,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile interval of the mean score `[N]`, resampling whole groups (prompts, subjects).

    Images of one prompt are not independent, so `groups[i]`, the prompt of image i, is what is
    drawn with replacement; for a macro mean over subjects pass one value per subject and the
    subjects' names. The same `seed` gives the same interval for any order of images. With one
    group no interval exists: None. Source: Efron and Tibshirani 1993, chapters 8 and 13.
    """
    values = torch.as_tensor(scores, dtype=torch.float64).flatten().tolist()
    if not values or len(values) != len(groups):
        raise UserError(
            f"an interval needs one group per score, got {len(values)} scores and {len(groups)} "
            "groups."
        )
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    if len(members) < 2:
        return None
    sums = torch.tensor(
        [[math.fsum(members[g]), len(members[g])] for g in sorted(members)], dtype=torch.float64
    )
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(sums), (resamples, len(sums)), generator=generator)
    totals = sums[draws].sum(dim=1)  # [resamples, 2]
    means = totals[:, 0] / totals[:, 1]
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def harmonic_mean(subject: float, prompt: float) -> float:
    """2ab/(a+b) of subject fidelity (DINO) and prompt fidelity (CLIP-T); 0 where either is <= 0.

    It falls when either falls, so neither a copy of the photos nor a forgotten subject wins.
    """
    if subject <= 0 or prompt <= 0:
        return 0.0
    return 2 * subject * prompt / (subject + prompt)


def best_step(curve: Iterable[tuple[int, float, float]]) -> int:
    """Step of the highest harmonic mean in `(step, subject, prompt)` rows; of equals the first."""
    points = sorted(curve)
    if not points:
        raise UserError("no step was scored: set evaluation.every_n_steps below max_steps.")
    return max(points, key=lambda p: (harmonic_mean(p[1], p[2]), -p[0]))[0]
