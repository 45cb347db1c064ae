"""DreamBooth's two-term loss, per sample until the very last line."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TwoTermLoss(NamedTuple):
    """Scalars; `prior` is 0 without class images."""

    instance: Tensor
    prior: Tensor
    total: Tensor


def error_per_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over every axis but the first: `[N,C,h,w]` => `[N]`, in float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR-gamma weight of each sample, `[N]` (Hang et al. 2023, section 3.4).

    min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for velocity.
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1 if prediction_type == "v_prediction" else snr)


def two_term_loss(error: Tensor, is_prior: Tensor, prior_loss_weight: float) -> TwoTermLoss:
    """instance + weight x prior, each a mean over its own samples (Ruiz et al. 2023, eq. 2).

    Args:
        error: `[N]`, already weighted per sample where a weighting is used.
        is_prior: `[N]` bool, true for class images. The counts of both kinds may differ.
        prior_loss_weight: lambda of the paper.

    A kind that is absent contributes 0. Nothing here waits for the device.
    """
    instance = _mean_over(error, ~is_prior)
    prior = _mean_over(error, is_prior)
    return TwoTermLoss(instance, prior, instance + prior_loss_weight * prior)


def _mean_over(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked entries, 0 where there are none."""
    # where(), not a product: an infinite error of one kind must not reach the other kind's term
    return torch.where(mask, error, 0.0).sum() / mask.sum().clamp(min=1)
