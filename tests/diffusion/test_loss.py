"""The two-term loss, worked by hand, and each term's gradient in its own rows only."""

import pytest
import torch
from torch.nn import functional as F

from dreambooth.diffusion.loss import error_per_sample, min_snr_weights, two_term_loss


def test_worked_by_hand():
    """instance = (1 + 3) / 2 = 2, prior = (2 + 4 + 9) / 3 = 5, total = 2 + 0.5 x 5 = 4.5."""
    error = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0])
    is_prior = torch.tensor([False, True, False, True, True])
    loss = two_term_loss(error, is_prior, 0.5)
    assert [t.item() for t in loss] == [2.0, 5.0, 4.5]


def test_equals_the_sum_of_two_means_over_pixels():
    """diffusers' form: mse(instance half, mean) + weight * mse(prior half, mean)."""
    g = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(4, 3, 2, 2, generator=g) for _ in range(2))
    is_prior = torch.tensor([False, False, True, True])
    loss = two_term_loss(error_per_sample(prediction, target), is_prior, 0.7)
    expected = F.mse_loss(prediction[:2], target[:2]) + 0.7 * F.mse_loss(prediction[2:], target[2:])
    torch.testing.assert_close(loss.total, expected)


def test_without_class_images_the_prior_is_zero():
    loss = two_term_loss(torch.tensor([1.0, 3.0]), torch.tensor([False, False]), 1.0)
    assert (loss.instance.item(), loss.prior.item(), loss.total.item()) == (2.0, 0.0, 2.0)


@pytest.mark.parametrize("term, rows", [("instance", [0, 2]), ("prior", [1])])
def test_each_term_reaches_only_its_rows(term, rows):
    prediction = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    prediction.requires_grad_()
    error = error_per_sample(prediction, torch.zeros(3, 2, 2, 2))
    getattr(two_term_loss(error, torch.tensor([False, True, False]), 1.0), term).backward()
    touched = prediction.grad.flatten(1).abs().sum(1).nonzero().flatten().tolist()
    assert touched == rows


def test_weight_zero_leaves_the_prior_without_gradient():
    error = torch.tensor([1.0, 2.0], requires_grad=True)
    two_term_loss(error, torch.tensor([False, True]), 0.0).total.backward()
    assert error.grad.tolist() == [1.0, 0.0]


def test_an_infinite_prior_error_does_not_spoil_the_instance_term():
    loss = two_term_loss(torch.tensor([1.0, torch.inf]), torch.tensor([False, True]), 1.0)
    assert loss.instance.item() == 1.0
    assert torch.isinf(loss.prior)


def test_min_snr_by_hand():
    """SNR 10 and 2 at gamma 5: 5/10 and 1 for epsilon; 5/11 and 2/3 for velocity."""
    snr = torch.tensor([10.0, 2.0])
    torch.testing.assert_close(min_snr_weights(snr, 5.0, "epsilon"), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(
        min_snr_weights(snr, 5.0, "v_prediction"), torch.tensor([5 / 11, 2 / 3])
    )


def test_min_snr_with_unequal_counts_weights_each_sample_before_the_split():
    """Three instance, one prior. diffusers' script weights only the first half, by all weights."""
    error = torch.tensor([1.0, 1.0, 1.0, 1.0])
    weights = min_snr_weights(torch.tensor([10.0, 2.0, 20.0, 50.0]), 5.0, "epsilon")
    loss = two_term_loss(error * weights, torch.tensor([False, False, False, True]), 1.0)
    assert loss.instance.item() == pytest.approx((0.5 + 1.0 + 0.25) / 3)
    assert loss.prior.item() == pytest.approx(0.1)
