"""Means over shards, intervals over groups, the rule for the best step."""

from __future__ import annotations

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.metrics.aggregate import (
    best_step,
    bootstrap_interval,
    harmonic_mean,
    macro,
    mean,
    mean_of_sums,
    pareto_front,
    sum_and_count,
)


@pytest.mark.parametrize("sizes", [[10], [5, 5], [7, 3], [9, 1, 0], [1] * 10])
def test_mean_is_the_same_for_any_world_size(sizes):
    scores = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums = torch.stack([sum_and_count(shard) for shard in scores.split(sizes)])
    assert mean_of_sums(sums) == pytest.approx(sum(scores.tolist()) / 10, abs=1e-12)
    assert mean_of_sums(sums.sum(dim=0)) == mean_of_sums(sums)  # after an all-reduce


def test_mean_does_not_depend_on_order_at_all():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert mean(scores) == mean(scores.flip(0)) == mean(scores.sort().values)


def test_macro_weighs_subjects_alike():
    assert macro({"dog": 0.2, "cat": 0.6}) == pytest.approx(0.4)


def test_no_images_and_nan_are_refused():
    with pytest.raises(UserError, match="no images"):
        mean(torch.zeros(0))
    with pytest.raises(UserError, match="NaN"):
        mean(torch.tensor([0.1, float("nan")]))


def test_interval_matches_the_normal_approximation():
    """200 groups of one: standard error sd/sqrt(n), interval mean +- 1.96 se within 5 %."""
    scores = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    low, high = bootstrap_interval(scores, [str(i) for i in range(200)], seed=0)
    half = 1.96 * float(scores.std(correction=0)) / 200**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(float(scores.mean()), abs=0.05 * half)


def test_interval_resamples_whole_prompts():
    """Four copies of each score carry no more information than one."""
    scores = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    groups = [f"{i:02d}" for i in range(20)]
    once = bootstrap_interval(scores, groups, seed=0)
    four = bootstrap_interval(scores.repeat(4), groups * 4, seed=0)
    assert four == pytest.approx(once, abs=1e-12)
    as_if_independent = bootstrap_interval(scores.repeat(4), [str(i) for i in range(80)], seed=0)
    assert as_if_independent[1] - as_if_independent[0] < 0.6 * (once[1] - once[0])


def test_interval_is_keyed_by_its_seed_and_free_of_order():
    scores = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = list("gcabdefhikjl")
    before = torch.random.get_rng_state()
    interval = bootstrap_interval(scores, groups, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert bootstrap_interval(scores.flip(0), groups[::-1], seed=0) == interval
    assert bootstrap_interval(scores, groups, seed=1) != interval


def test_interval_of_one_group_is_none_and_of_equal_groups_a_point():
    assert bootstrap_interval([0.1, 0.2], ["a", "a"], seed=0) is None
    assert bootstrap_interval([0.5, 0.5], ["a", "b"], seed=0) == (0.5, 0.5)
    assert bootstrap_interval([0.5] * 4, ["a", "b", "b", "b"], seed=0) == (0.5, 0.5)
    with pytest.raises(UserError, match="one group per score"):
        bootstrap_interval([0.1], ["a", "b"], seed=0)


def test_best_step_by_hand():
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean(-0.1, 0.3) == harmonic_mean(0.5, 0.0) == 0.0
    # A copy of the photos (0.9, 0.1) and a forgotten subject (0.2, 0.3) lose to the middle.
    curve = [(300, 0.9, 0.1), (100, 0.2, 0.3), (200, 0.6, 0.3), (250, 0.6, 0.3)]
    assert best_step(curve) == 200
    with pytest.raises(UserError, match="no step was scored"):
        best_step([])


@pytest.mark.parametrize("seed", range(20))
def test_pareto_front_is_that_of_comparing_all_pairs(seed):
    """Few values, so that many points are equal in one value or in both."""
    generator = torch.Generator().manual_seed(seed)
    points = [tuple(p) for p in torch.randint(6, (30, 2), generator=generator).tolist()]
    expected = [
        i
        for i, (a, b) in enumerate(points)
        if not any(c >= a and d >= b and (c > a or d > b) for c, d in points)
    ]
    assert pareto_front(points) == expected
    assert pareto_front([]) == []
