"""DreamBooth's two-term loss, kept per sample until the last line."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class TwoTermLoss(NamedTuple):
    """The scalar loss and its two terms; `prior` is 0 without prior rows."""

    instance: Tensor
    prior: Tensor
    total: Tensor


def error_per_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Average the squared error over all axes but the first: `[N,C,h,w]` => `[N]`, in float32.

    >>> error_per_sample(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)).tolist()
    [5.0, 0.0]
    """
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Compute the Min-SNR-gamma weight of each sample, `[N]` (Hang et al. 2023, section 3.4).

        epsilon:       min(snr, gamma) / snr
        v_prediction:  min(snr, gamma) / (snr + 1)

    >>> min_snr_weights(torch.tensor([10.0, 2.0]), 5.0, "epsilon").tolist()
    [0.5, 1.0]
    >>> min_snr_weights(torch.tensor([9.0, 1.0]), 5.0, "v_prediction").tolist()
    [0.5, 0.5]
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1 if prediction_type == "v_prediction" else snr)


def two_term_loss(error: Tensor, is_prior: Tensor, prior_loss_weight: float) -> TwoTermLoss:
    """Average each kind over its own samples and add the two (Ruiz et al. 2023, eq. 2).

        total = mean(error of instance rows) + prior_loss_weight x mean(error of prior rows)

    Args:
        error: `[N]`, already weighted per sample where a weighting is used.
        is_prior: `[N]` bool, true for prior rows. The counts of both kinds may differ.
        prior_loss_weight: lambda of the paper.

    A kind that is absent contributes 0. Nothing here waits for the device.

    >>> error, is_prior = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([False, False, True])
    >>> [term.item() for term in two_term_loss(error, is_prior, 0.5)]
    [2.0, 5.0, 4.5]
    """
    instance = _mean_over(error, ~is_prior)
    prior = _mean_over(error, is_prior)
    return TwoTermLoss(instance, prior, instance + prior_loss_weight * prior)


def scheduled_weight(first: float, last: float, schedule: str, step: int, steps: int) -> float:
    """Compute the prior loss's weight at step `step` of 0 to `steps - 1`.

    It is `first` throughout if `schedule` is `constant`; `linear`, and `cosine` (half a period of
    it), go from `first` at the first step to `last` at the last.

    >>> [scheduled_weight(1.0, 0.0, "linear", step, 3) for step in range(3)]
    [1.0, 0.5, 0.0]
    >>> [round(scheduled_weight(1.0, 0.0, "cosine", step, 5), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if schedule == "constant":
        return first
    done = step / max(1, steps - 1)
    if schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return first + (last - first) * done


def _mean_over(error: Tensor, mask: Tensor) -> Tensor:
    """Average the masked entries; 0 where there are none."""
    # where(), not a product: an infinite error of one kind must not reach the other kind's term
    return torch.where(mask, error, 0.0).sum() / mask.sum().clamp(min=1)
