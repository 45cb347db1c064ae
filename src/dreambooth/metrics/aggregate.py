"""From per-image scores to one number: means over shards and subjects, intervals, best step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dreambooth.errors import UserError


def sum_and_count(scores: Tensor) -> Tensor:
    """Reduce one shard's scores `[N]`, N >= 0, to `[sum, N]` float64, which ranks can add up.

    The mean of the ranks' means is biased where shards are unequal.

    >>> sum_and_count(torch.tensor([0.5, 0.25]))
    tensor([0.7500, 2.0000], dtype=torch.float64)
    """
    values = scores.detach().to("cpu", torch.float64).flatten().tolist()
    return torch.tensor([math.fsum(values), len(values)], dtype=torch.float64)


def mean_of_sums(sums: Tensor) -> float:
    """Compute the mean over all shards: sum_w S_w / sum_w N_w.

    >>> mean_of_sums(torch.tensor([[1.0, 1.0], [0.0, 4.0]]))
    0.2

    Args:
        sums: `sum_and_count` of every rank, `[W,2]`, or `[2]` if they are added up already.

    Raises:
        UserError: no images, or a score that is NaN or infinite.
    """
    total, count = sums.reshape(-1, 2).sum(dim=0).tolist()
    if count == 0:
        raise UserError("there are no images to average: generate images before scoring them.")
    mean = total / count
    if not math.isfinite(mean):
        raise UserError("a score is NaN or infinite, so there is no mean: score the images again.")
    return mean


def mean(scores: Tensor) -> float:
    """Compute the mean of per-image scores `[N]`, the same for any order of images.

    >>> mean(torch.tensor([0.5, 0.25]))
    0.375

    Raises:
        UserError: as `mean_of_sums`.
    """
    return mean_of_sums(sum_and_count(scores))


def macro(per_subject: Mapping[str, float]) -> float:
    """Compute the mean over subjects of each subject's mean: 1/S sum_s m_s.

    Subjects have equal weight, whatever their number of images.

    >>> macro({"dog": 0.5, "cat": 0.25})
    0.375
    """
    return mean(torch.tensor(list(per_subject.values()), dtype=torch.float64))


def bootstrap_interval(
    scores: Tensor | Sequence[float],
    groups: Sequence[str],
    *,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Compute a percentile interval of the mean score by resampling whole groups.

    Draw G of the G groups with replacement, take the mean over their images, repeat; the interval
    is between the (1 - level)/2 and (1 + level)/2 quantiles of these means. Images of one prompt
    are not independent, so whole prompts are drawn; for a macro mean over subjects pass one value
    per subject. Source: Efron and Tibshirani 1993, chapters 8 and 13.

    >>> bootstrap_interval([0.5, 0.5, 0.75], ["a", "a", "b"], seed=0)
    (0.5, 0.75)

    Args:
        scores: `[N]`.
        groups: each score's group (a prompt, a subject).
        seed: the same seed gives the same interval for any order of images.

    Returns:
        the interval; None if there is one group only.

    Raises:
        UserError: no scores, or not one group per score.
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
    """Combine subject fidelity a (DINO) and prompt fidelity b (CLIP-T): 2ab / (a + b).

    It is 0 if either is not positive, and falls when either falls, so neither a copy of the photos
    nor a forgotten subject has a high value.

    >>> harmonic_mean(0.5, 0.5), harmonic_mean(1.0, 0.0)
    (0.5, 0.0)
    """
    if subject <= 0 or prompt <= 0:
        return 0.0
    return 2 * subject * prompt / (subject + prompt)


def best_step(curve: Iterable[tuple[int, float, float]]) -> int:
    """Return the step with the highest harmonic mean in `(step, subject, prompt)` rows.

    The first of equal steps wins.

    >>> best_step([(100, 0.25, 0.25), (200, 0.5, 0.25), (300, 0.5, 0.25)])
    200

    Raises:
        UserError: no rows.
    """
    points = sorted(curve)
    if not points:
        raise UserError("no step was scored: set evaluation.every_n_steps below max_steps.")
    return max(points, key=lambda p: (harmonic_mean(p[1], p[2]), -p[0]))[0]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point dominates, in their order.

    A point dominates another if neither of its two values is lower and one is higher. So equal
    points stand or fall together. For subject fidelity (DINO) against prompt fidelity (CLIP-T),
    the front holds every model for which no other is better in both.

    >>> pareto_front([(0.7, 0.2), (0.6, 0.3), (0.6, 0.2)])
    [0, 1]
    """
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    front, best = [], -math.inf  # best: the highest second value among higher first values
    for i in order:
        first, second = points[i]
        is_equal = bool(front) and points[front[-1]] == (first, second)
        if second > best or is_equal:
            front.append(i)
            best = second
    return sorted(front)
