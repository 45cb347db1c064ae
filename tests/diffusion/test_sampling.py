"""Samplers keep the model's noise schedule; SLERP against the formula worked by hand."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from dreambooth.diffusion.sampling import make_scheduler, slerp


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler"])
def test_sampler_keeps_the_schedule_and_prediction_type(name):
    training = DDPMScheduler(
        beta_start=0.001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"
    )
    sampler = make_scheduler(name, {}, dict(training.config))
    assert sampler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(sampler.alphas_cumprod, training.alphas_cumprod)


def test_options_reach_the_sampler():
    training = DDPMScheduler()
    sampler = make_scheduler(
        "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, dict(training.config)
    )
    assert sampler.config.use_karras_sigmas is True


def test_slerp_at_a_right_angle():
    """Halfway between (1,0) and (0,1) lies (1,1)/sqrt(2), not (1,1)/2."""
    middle = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    torch.testing.assert_close(middle, torch.full((1, 2), 1 / math.sqrt(2)))


def test_slerp_ends_and_parallel_latents():
    a, b = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
