"""How far a fine-tuned model's class images have moved: a kernel distance of two distributions.

The squared maximum mean discrepancy under the polynomial kernel of the Kernel Inception Distance,
k(x, y) = (gamma <x, y> + 1)^3 (Binkowski et al. 2018), with gamma = 1 because features are unit
vectors here. Both models draw from the same seeds, and an image is never paired with the other
model's of its own seed: MMD^2_u of Gretton et al. 2012, equation 4. That is unbiased for any number
of images, exactly 0 for two equal models, and may be below 0. torchmetrics' `poly_mmd` keeps those
pairs, which are not independent, and so is below 0 for equal models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.fidelity import unit_features


def pair_terms(base: Tensor, tuned: Tensor) -> Tensor:
    """Compute h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), 0 on the diagonal.

    >>> pair_terms(torch.eye(2), torch.eye(2)).tolist()
    [[0.0, 0.0], [0.0, 0.0]]

    Args:
        base, tuned: features `[N,D]` of the two models' images, in the order of their seeds.

    Returns:
        `[N,N]` float64, symmetric.

    Raises:
        UserError: as `unit_features`, one image, or unequal counts.
    """
    from torchmetrics.image.kid import poly_kernel  # with every metric of the package

    x, y = unit_features(base, "base model"), unit_features(tuned, "fine-tuned model")
    if x.shape != y.shape or len(x) < 2:
        raise UserError(
            f"a kernel distance needs two images or more of each model, as many of both: got "
            f"{len(x)} and {len(y)}."
        )
    kxy = poly_kernel(x, y, gamma=1.0)
    terms = poly_kernel(x, x, gamma=1.0) + poly_kernel(y, y, gamma=1.0) - kxy - kxy.T
    return terms.fill_diagonal_(0.0)


def image_means(terms: Tensor) -> list[float]:
    """Compute each image's part of the distance, 1/(N-1) sum_j h_ij; their mean is the distance."""
    return (terms.sum(dim=1) / (len(terms) - 1)).tolist()


def distance(classes: Sequence[Tensor]) -> float:
    """Average the distances of several classes: of each, 1/(N(N-1)) sum_ij h_ij.

    >>> distance([torch.tensor([[0.0, 0.5], [0.5, 0.0]])])
    0.5

    Args:
        classes: `pair_terms` of each class.
    """
    means = [float(terms.sum()) / (len(terms) * (len(terms) - 1)) for terms in classes]
    return sum(means) / len(means)


def interval(
    classes: Sequence[Tensor], *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float] | None:
    """Compute a percentile interval of `distance` by resampling the seeds of each class.

    An image that is drawn twice is not paired with itself, which would be no pair of two images: of
    draws with counts w the distance is sum_ij w_i w_j h_ij / sum_{i != j} w_i w_j.

    Returns:
        the interval; None for fewer than 3 images of a class.
    """
    if min(len(terms) for terms in classes) < 3:
        return None
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(resamples, dtype=torch.float64)
    for terms in classes:
        n = len(terms)
        draws = torch.randint(n, (resamples, n), generator=generator)
        counts = torch.zeros(resamples, n, dtype=torch.float64)
        counts.scatter_add_(1, draws, torch.ones_like(counts))
        pairs = n**2 - counts.square().sum(dim=1)
        # draws of one image alone have no pair, and their sum is 0
        total += ((counts @ terms) * counts).sum(dim=1) / pairs.clamp(min=1)
    tail = (1 - level) / 2
    quantiles = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = (total / len(classes)).quantile(quantiles).tolist()
    return low, high
