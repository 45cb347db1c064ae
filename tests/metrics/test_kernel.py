"""Kernel distances against plain loops and torchmetrics' Kernel Inception Distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics import kernel


def features(count: int, seed: int, towards: float = 0.0) -> Tensor:
    rows = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double()
    rows[:, 0] += towards
    return F.normalize(rows, dim=1)


def test_the_distance_is_that_of_a_plain_loop():
    x, y = features(7, 0), features(7, 1, towards=2)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) + 1) ** 3

    total = sum(
        k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
        for i in range(7)
        for j in range(7)
        if i != j
    )
    terms = kernel.pair_terms(x, y)
    assert kernel.distance([terms]) == pytest.approx(total / (7 * 6), abs=1e-12)
    means = kernel.image_means(terms)
    assert sum(means) / 7 == pytest.approx(total / (7 * 6), abs=1e-12)
    other = kernel.pair_terms(x, features(7, 2))
    both = [kernel.distance([each]) for each in (terms, other)]
    assert kernel.distance([terms, other]) == pytest.approx(sum(both) / 2, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_it_differs_from_torchmetrics_by_the_pairs_of_equal_seeds_alone():
    from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

    n, x, y = 9, features(9, 3), features(9, 4, towards=1)
    theirs = KernelInceptionDistance(nn.Identity(), subsets=1, subset_size=n, gamma=1.0)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    expected = float(theirs.compute()[0])
    cross = poly_kernel(x, y, gamma=1.0)
    expected += 2 * float(cross.sum()) / n**2
    expected -= 2 * float(cross.sum() - cross.trace()) / (n * (n - 1))
    assert kernel.distance([kernel.pair_terms(x, y)]) == pytest.approx(expected, abs=1e-6)


def test_equal_models_have_no_distance_and_the_estimate_is_unbiased():
    x = features(8, 5)
    terms = kernel.pair_terms(x, x)
    assert kernel.distance([terms]) == 0 and kernel.interval([terms], seed=0) == (0.0, 0.0)
    many = [
        kernel.distance([kernel.pair_terms(features(4, 2 * s), features(4, 2 * s + 1))])
        for s in range(400)
    ]
    mean, deviation = sum(many) / 400, torch.tensor(many).std() / 20
    assert abs(mean) < 3 * deviation and min(many) < 0  # of one distribution
    far = kernel.pair_terms(x, features(8, 6, towards=4))
    assert kernel.distance([far]) > 1 and kernel.interval([far], seed=0)[0] > 0


def test_the_interval_is_that_of_a_plain_loop_over_draws():
    terms = [kernel.pair_terms(features(5, 7), features(5, s, towards=1)) for s in (8, 9)]
    found = kernel.interval(terms, seed=0, resamples=300)
    generator, values = torch.Generator().manual_seed(0), torch.zeros(300, dtype=torch.float64)
    for each in terms:
        for r, draw in enumerate(torch.randint(5, (300, 5), generator=generator).tolist()):
            pairs = [(i, j) for i in draw for j in draw if i != j]
            values[r] += sum(float(each[i, j]) for i, j in pairs) / max(len(pairs), 1) / 2
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert found == pytest.approx((low, high), abs=1e-9)
    assert found[0] < kernel.distance(terms) < found[1]
    assert kernel.interval([terms[0][:2, :2]], seed=0) is None


@pytest.mark.parametrize("counts", [(1, 1), (3, 2)])
def test_too_few_images_and_unequal_counts_are_refused(counts):
    with pytest.raises(UserError, match="two images or more of each model"):
        kernel.pair_terms(features(counts[0], 0), features(counts[1], 1))
